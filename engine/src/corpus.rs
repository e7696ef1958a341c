// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The corpus of `crucible fuzz`: the recipes that have reached new blocks of the kernel, kept in a
//! file from one run to the next.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    io::Write as _,
    path::{Path, PathBuf},
};

use crucible_protocol::image::damage::Recipe;
use serde::{Deserialize, Serialize};

/// The version of the file's format.
const FORMAT: u32 = 1;

/// Recipes by program.
pub type Recipes = BTreeMap<String, BTreeSet<Recipe>>;

/// The file's content.
#[derive(Serialize, Deserialize)]
struct Content {
    format: u32,
    /// Recipes as text, by program.
    recipes: BTreeMap<String, Vec<String>>,
}

/// A corpus and its file.
#[derive(Debug)]
pub struct Corpus {
    file: PathBuf,
    recipes: Recipes,
}

impl Corpus {
    /// Reads a corpus. Without a file, it is empty.
    ///
    /// # Errors
    /// The file cannot be read, or is not a corpus.
    pub fn load(file: &Path) -> io::Result<Self> {
        let recipes = match fs::read_to_string(file) {
            Ok(text) => parse(&text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Recipes::new(),
            Err(error) => return Err(error),
        };
        Ok(Self {
            file: file.to_owned(),
            recipes,
        })
    }

    /// Returns the recipes of a program.
    pub fn of(&self, program: &str) -> Vec<Recipe> {
        let recipes = self.recipes.get(program);
        recipes.into_iter().flatten().cloned().collect()
    }

    /// Returns the names of the programs that have recipes.
    pub fn programs(&self) -> Vec<String> {
        self.recipes.keys().cloned().collect()
    }

    /// Returns the number of recipes.
    pub fn len(&self) -> usize {
        self.recipes.values().map(BTreeSet::len).sum()
    }

    /// Returns true when there are no recipes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds recipes of a program, and writes the file.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn add(
        &mut self,
        program: &str,
        recipes: impl IntoIterator<Item = Recipe>,
    ) -> io::Result<()> {
        let mut new = recipes.into_iter().peekable();
        if new.peek().is_none() {
            return Ok(());
        }
        let known = self.recipes.entry(program.to_owned()).or_default();
        let before = known.len();
        known.extend(new);
        match known.len() == before {
            true => Ok(()),
            false => self.write(),
        }
    }

    /// Replaces the recipes of a program, and writes the file.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn replace(&mut self, program: &str, recipes: BTreeSet<Recipe>) -> io::Result<()> {
        match recipes.is_empty() {
            true => self.recipes.remove(program),
            false => self.recipes.insert(program.to_owned(), recipes),
        };
        self.write()
    }

    /// Writes the file. It is complete at every moment, because a new one is written and renamed.
    fn write(&self) -> io::Result<()> {
        let text = |recipes: &BTreeSet<Recipe>| recipes.iter().map(Recipe::to_string).collect();
        let content = Content {
            format: FORMAT,
            recipes: self
                .recipes
                .iter()
                .map(|(program, recipes)| (program.clone(), text(recipes)))
                .collect(),
        };
        let directory = match self.file.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let mut new = tempfile::NamedTempFile::new_in(directory)?;
        serde_json::to_writer_pretty(&mut new, &content)?;
        new.write_all(b"\n")?;
        new.as_file().sync_all()?;
        new.persist(&self.file).map_err(|error| error.error)?;
        Ok(())
    }
}

fn parse(text: &str) -> io::Result<Recipes> {
    let wrong = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    let content: Content = serde_json::from_str(text)?;
    if content.format != FORMAT {
        let Content { format, .. } = content;
        return Err(wrong(format!(
            "a corpus of format {format}; this crucible reads {FORMAT}"
        )));
    }
    let mut recipes = Recipes::new();
    for (program, texts) in content.recipes {
        let of_program: Result<_, _> = texts.iter().map(|text| text.parse()).collect();
        let of_program = of_program.map_err(|error| wrong(format!("{program}: {error}")))?;
        recipes.insert(program, of_program);
    }
    Ok(recipes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_corpus_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("corpus.json");
        let mut corpus = Corpus::load(&file).unwrap();
        assert!(corpus.is_empty());
        let recipes: Vec<Recipe> = ["1f,a03", "-"].map(|text| text.parse().unwrap()).to_vec();
        corpus.add("many", recipes.clone()).unwrap();
        corpus.add("tree", ["7".parse().unwrap()]).unwrap();
        corpus.add("many", recipes.clone()).unwrap();
        let corpus = Corpus::load(&file).unwrap();
        assert_eq!(corpus.len(), 3);
        assert_eq!(corpus.programs(), ["many", "tree"]);
        let many = corpus.of("many");
        assert!(many.len() == 2 && recipes.iter().all(|recipe| many.contains(recipe)));
        assert_eq!(corpus.of("chain"), []);
    }

    #[test]
    fn recipes_that_have_become_dull_are_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("corpus.json");
        let mut corpus = Corpus::load(&file).unwrap();
        corpus
            .add("many", ["1", "2"].map(|text| text.parse().unwrap()))
            .unwrap();
        corpus
            .replace("many", BTreeSet::from(["2".parse().unwrap()]))
            .unwrap();
        assert_eq!(Corpus::load(&file).unwrap().len(), 1);
        corpus.replace("many", BTreeSet::new()).unwrap();
        assert!(Corpus::load(&file).unwrap().programs().is_empty());
    }

    #[test]
    fn another_file_is_no_corpus() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("corpus.json");
        for wrong in [
            "",
            "{}",
            r#"{"format": 2, "recipes": {}}"#,
            r#"{"format": 1, "recipes": {"many": ["x"]}}"#,
        ] {
            fs::write(&file, wrong).unwrap();
            assert!(Corpus::load(&file).is_err(), "{wrong}");
        }
    }
}
