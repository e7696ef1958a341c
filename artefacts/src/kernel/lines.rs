// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Finds the source lines of places in the kernel's code.
//!
//! Our kernels have no debug information: it would make their images ten times as large, and is
//! needed only when a kernel has failed. So the objects of the places are then compiled once more,
//! with line tables, by the same commands that the build has recorded; the compiler's code does not
//! depend on them. That needs the build directory of this kernel with its sources, which the cache
//! has for the last kernel of each flavour; it is brought up to date for a different one. An image
//! that has debug information itself, as the user's own may, needs nothing else.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use object::read::elf::ElfFile64;
use object::{Endianness, Object, ObjectSection, ObjectSymbol, elf};
use walkdir::WalkDir;

use super::report::Place;
use crate::Cache;

/// A place and its line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Path of the file in the kernel's tree.
    pub file: String,
    /// Number of the line, from 1 on.
    pub line: u32,
}

/// Builds a kernel once more, in its build directory.
type Again<'a> = Box<dyn Fn() + Send + Sync + 'a>;

/// Finds the lines of one kernel.
pub struct Lines<'a> {
    cache: Cache,
    image: PathBuf,
    again: Again<'a>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The image's data, read when it is first needed.
    source: Option<Source>,
    /// Objects that were compiled once more, by the paths of the original ones.
    objects: HashMap<PathBuf, Option<PathBuf>>,
    known: HashMap<(String, u64, u64), Option<Line>>,
    /// The directory of the new objects.
    directory: Option<tempfile::TempDir>,
}

/// The source of line numbers.
enum Source {
    /// The image itself.
    Image(Vec<Symbol>),
    /// Objects of a build directory.
    Build(Build),
    Nothing,
}

struct Build {
    /// The build directory.
    out: PathBuf,
    /// The tree with the sources.
    tree: PathBuf,
    /// The functions of the image.
    symbols: Vec<Symbol>,
    /// The objects that define a function of this name and size.
    objects: HashMap<(String, u64), Vec<PathBuf>>,
}

/// A function.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Symbol {
    name: String,
    address: u64,
    size: u64,
    /// The index of its section, in a relocatable object.
    section: Option<usize>,
}

impl<'a> Lines<'a> {
    /// Finds lines for the kernel `image`. Nothing is read before it is needed. If no build
    /// directory has built this very image last, `again` is called to bring it up to date.
    pub fn new(cache: Cache, image: PathBuf, again: impl Fn() + Send + Sync + 'a) -> Self {
        Self {
            cache,
            image,
            again: Box::new(again),
            state: Mutex::default(),
        }
    }

    /// Returns the line of a place, or `None` if it cannot be found.
    pub fn find(&self, place: &Place) -> Option<Line> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (place.function.clone(), place.offset, place.size);
        if let Some(known) = state.known.get(&key) {
            return known.clone();
        }
        let source = state.source.take().unwrap_or_else(|| self.source());
        let line = self.find_in(&source, &mut state, place);
        state.source = Some(source);
        state.known.insert(key, line.clone());
        line
    }

    fn find_in(&self, source: &Source, state: &mut State, place: &Place) -> Option<Line> {
        // The address of the call: the report has only the address after it.
        let offset = match place.exact {
            true => place.offset,
            false => place.offset.checked_sub(1)?,
        };
        match source {
            Source::Nothing => None,
            Source::Image(symbols) => {
                let symbol = only(symbols, place)?;
                resolve(&self.image, None, symbol.address + offset, None)
            }
            Source::Build(build) => {
                let symbol = only(&build.symbols, place)?;
                let key = (symbol.name.clone(), symbol.size);
                // Two static functions of one name and size cannot be distinguished.
                let [object] = &build.objects.get(&key)?[..] else {
                    return None;
                };
                let again = match state.objects.get(object) {
                    Some(again) => again.clone(),
                    None => {
                        let again = self.compile(build, object, state);
                        state.objects.insert(object.clone(), again.clone());
                        again
                    }
                }?;
                let bytes = fs::read(&again).ok()?;
                let file = ElfFile64::<Endianness>::parse(bytes.as_slice()).ok()?;
                // Equal sizes and offsets: presumably the same code.
                let found = functions(&file)
                    .into_iter()
                    .find(|one| one.name == symbol.name && one.size == symbol.size)?;
                let section = file
                    .section_by_index(object::SectionIndex(found.section?))
                    .ok()?;
                let section = section.name().ok()?.to_owned();
                resolve(
                    &again,
                    Some(&section),
                    found.address + offset,
                    Some(&build.tree),
                )
            }
        }
    }

    /// Finds the source of the image's line numbers.
    fn source(&self) -> Source {
        let Ok(image) = fs::read(&self.image) else {
            return Source::Nothing;
        };
        let Ok(file) = ElfFile64::<Endianness>::parse(image.as_slice()) else {
            return Source::Nothing;
        };
        let symbols = functions(&file);
        if file.section_by_name(".debug_line").is_some() {
            return Source::Image(symbols);
        }
        let found = self.build_directory(&image).or_else(|| {
            (self.again)();
            self.build_directory(&image)
        });
        let Some(out) = found else {
            return Source::Nothing;
        };
        let Some(trees) = out.parent() else {
            return Source::Nothing;
        };
        Source::Build(Build {
            tree: trees.join("src"),
            objects: objects(&out),
            out,
            symbols,
        })
    }

    /// Returns the build directory whose last kernel is this one.
    fn build_directory(&self, image: &[u8]) -> Option<PathBuf> {
        let trees = WalkDir::new(self.cache.root().join("kernel-tree"))
            .min_depth(2)
            .max_depth(2);
        trees
            .into_iter()
            .flatten()
            .map(walkdir::DirEntry::into_path)
            .find(|out| {
                let built = out.join("vmlinux");
                let same_size = built
                    .metadata()
                    .is_ok_and(|metadata| metadata.len() == image.len() as u64);
                same_size && fs::read(&built).is_ok_and(|built| built == image)
            })
    }

    /// Compiles an object of the build once more, with line tables. Returns `None` if that does not
    /// work, if another process changes the sources now, or if they have changed since.
    fn compile(&self, build: &Build, object: &Path, state: &mut State) -> Option<PathBuf> {
        let name = build.out.parent()?.file_name()?.to_str()?;
        let lock = self.cache.try_lock(&format!("kernel-tree-{name}")).ok()??;
        let record = object.with_file_name(format!(".{}.cmd", object.file_name()?.to_str()?));
        let record = fs::read_to_string(record).ok()?;
        let source = source_of(&record)?;
        let modified = |path: &Path| path.metadata().and_then(|it| it.modified()).ok();
        if modified(&build.out.join(source))? > modified(object)? {
            return None;
        }
        if state.directory.is_none() {
            state.directory = tempfile::tempdir().ok();
        }
        let directory = state.directory.as_ref()?.path();
        let new = directory.join(format!("{}.o", state.objects.len()));
        let command = command(&record)?;
        tracing::debug!(target: "command", "{command}");
        let status = Command::new("/bin/sh")
            .args(["-c", &command])
            .current_dir(&build.out)
            .env("CRUCIBLE_OBJECT", &new)
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .ok()?;
        drop(lock);
        status.success().then_some(new)
    }
}

/// Returns the only function that a place can be in. The kernel counts the gap up to the next
/// function as a part of a function's size.
fn only<'a>(symbols: &'a [Symbol], place: &Place) -> Option<&'a Symbol> {
    /// Maximum alignment of functions.
    const ALIGNMENT: u64 = 64;
    let mut found = symbols.iter().filter(|symbol| {
        symbol.name == place.function
            && symbol.size > place.offset.saturating_sub(1)
            && symbol.size <= place.size
            && place.size - symbol.size < ALIGNMENT
    });
    let first = found.next()?;
    found.next().is_none().then_some(first)
}

/// Returns the functions that a file defines.
fn functions(file: &ElfFile64<'_>) -> Vec<Symbol> {
    file.symbols()
        .filter(|symbol| symbol.is_definition() && symbol.size() > 0)
        .filter(|symbol| symbol.elf_symbol().st_type() == elf::STT_FUNC)
        .filter_map(|symbol| {
            Some(Symbol {
                name: symbol.name().ok()?.to_owned(),
                address: symbol.address(),
                size: symbol.size(),
                section: symbol.section_index().map(|index| index.0),
            })
        })
        .collect()
}

/// Returns the objects below a build directory that have been compiled from C, by the functions
/// that they define.
fn objects(out: &Path) -> HashMap<(String, u64), Vec<PathBuf>> {
    let mut found: HashMap<_, Vec<_>> = HashMap::new();
    let ours = |entry: &walkdir::DirEntry| {
        // Programs of the build itself.
        !(entry.depth() == 1
            && ["scripts", "tools", "usr"]
                .iter()
                .any(|it| entry.file_name() == *it))
    };
    for entry in WalkDir::new(out).into_iter().filter_entry(ours).flatten() {
        let path = entry.path();
        // The build's own directory contains the whole kernel.
        if entry.depth() < 2 || path.extension().is_none_or(|extension| extension != "o") {
            continue;
        }
        let Ok(bytes) = fs::read(path) else { continue };
        let Ok(file) = ElfFile64::<Endianness>::parse(bytes.as_slice()) else {
            continue;
        };
        for symbol in functions(&file) {
            let key = (symbol.name, symbol.size);
            found.entry(key).or_default().push(path.to_owned());
        }
    }
    found
}

/// Returns the path of the source from kbuild's record of an object, if that is C.
fn source_of(record: &str) -> Option<&str> {
    let line = record.lines().find(|line| line.starts_with("source_"))?;
    let (_, source) = line.split_once(" := ")?;
    let source = source.trim();
    source.ends_with(".c").then_some(source)
}

/// Returns the shell command that compiles an object to `$CRUCIBLE_OBJECT`, with line tables.
fn command(record: &str) -> Option<String> {
    let line = record.lines().find(|line| line.starts_with("savedcmd_"))?;
    let (_, line) = line.split_once(" := ")?;
    // The next commands change the object in place.
    let compiler = line.split(" ; ").next()?;
    let mut words = Vec::new();
    let mut to = false;
    for word in compiler.split(' ') {
        match word {
            _ if std::mem::replace(&mut to, word == "-o") => words.push("\"$CRUCIBLE_OBJECT\""),
            // The list of headers, in the directory of the original object.
            _ if word.starts_with("-Wp,-MMD,") => {}
            _ => words.push(word),
        }
    }
    words.push("-g1");
    // The record is a part of a makefile.
    Some(words.join(" ").replace("$$", "$").replace("\\#", "#"))
}

/// Returns the line of an address in a file, or in one of its sections, by binutils, which a
/// compiler needs anyway. With inlined functions it is the line in the innermost one.
fn resolve(file: &Path, section: Option<&str>, address: u64, tree: Option<&Path>) -> Option<Line> {
    let mut command = Command::new("addr2line");
    command.arg("-e").arg(file).arg("-i");
    if let Some(section) = section {
        command.arg("-j").arg(section);
    }
    let output = command.arg(format!("{address:#x}")).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    parse(text.lines().next()?, tree)
}

/// Parses `PATH:LINE` or `PATH:LINE (discriminator 2)`.
fn parse(text: &str, tree: Option<&Path>) -> Option<Line> {
    let text = text.split(" (").next()?;
    let (file, line) = text.rsplit_once(':')?;
    let line = line.parse().ok().filter(|line| *line > 0)?;
    if file == "??" {
        return None;
    }
    let path = Path::new(file);
    let path = tree.map_or(path, |tree| path.strip_prefix(tree).unwrap_or(path));
    // Paths of a build outside of the sources' directory.
    let file = path.to_string_lossy();
    let file = file.trim_start_matches("./").to_owned();
    Some(Line { file, line })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: &str = "savedcmd_kernel/a.o := gcc -Wp,-MMD,kernel/.a.o.d -I/t/src/include \
        -DKBUILD_BASENAME='\"a\"' -DX='\\#$$y' -c -o kernel/a.o /t/src/kernel/a.c   ; \
        ./tools/objtool/objtool --orc kernel/a.o\n\nsource_kernel/a.o := /t/src/kernel/a.c\n";

    #[test]
    fn a_recorded_command_writes_another_object() {
        let expected = "gcc -I/t/src/include -DKBUILD_BASENAME='\"a\"' -DX='#$y' -c \
                        -o \"$CRUCIBLE_OBJECT\" /t/src/kernel/a.c   -g1";
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(words(&command(RECORD).unwrap()), words(expected));
        assert_eq!(source_of(RECORD), Some("/t/src/kernel/a.c"));
        assert_eq!(source_of("source_a.o := a.S"), None);
    }

    #[test]
    fn lines_are_those_of_the_kernels_tree() {
        let tree = Some(Path::new("/t/src"));
        let line = |text| parse(text, tree).map(|line| format!("{}:{}", line.file, line.line));
        assert_eq!(line("/t/src/kernel/a.c:12").unwrap(), "kernel/a.c:12");
        assert_eq!(
            line("/t/src/kernel/a.c:7 (discriminator 2)").unwrap(),
            "kernel/a.c:7"
        );
        assert_eq!(line("./include/a.h:3").unwrap(), "include/a.h:3");
        for nothing in ["??:0", "??:?", "a.c:?", "a.c:0", ""] {
            assert_eq!(line(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn a_function_is_told_by_its_size() {
        let symbol = |name: &str, size| Symbol {
            name: name.into(),
            address: 0x1000,
            size,
            section: None,
        };
        let place = |offset, size| Place {
            function: "f".into(),
            offset,
            size,
            exact: true,
        };
        let two = [symbol("f", 0x31), symbol("f", 0x90), symbol("g", 0x31)];
        assert_eq!(only(&two, &place(0x12, 0x40)), Some(&two[0]));
        assert_eq!(only(&two, &place(0x12, 0x90)), Some(&two[1]));
        assert_eq!(only(&two, &place(0x12, 0x30)), None);
        assert_eq!(only(&two, &place(0x38, 0x40)), None);
        let alike = [symbol("f", 0x31), symbol("f", 0x34)];
        assert_eq!(only(&alike, &place(0x12, 0x40)), None);
    }

    /// Compiles a program of one function with a call that is inlined.
    #[test]
    fn a_line_is_found_in_an_image_with_debug_information() {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("a.c");
        let image = directory.path().join("vmlinux");
        let text = "int g;\nvoid called(void);\nvoid f(void)\n{\n\tg = 1;\n\tcalled();\n}\n\
                    void called(void)\n{\n}\nint main(void) { f(); }\n";
        fs::write(&source, text).unwrap();
        let status = Command::new("gcc")
            .args(["-g1", "-O0", "-static", "-nostdlib", "-Wl,-e,main", "-o"])
            .args([&image, &source])
            .status()
            .unwrap();
        assert!(status.success());
        let cache = Cache::at(directory.path().join("cache")).unwrap();
        let lines = Lines::new(cache, image.clone(), || panic!("it has debug information"));
        let bytes = fs::read(&image).unwrap();
        let file = ElfFile64::<Endianness>::parse(bytes.as_slice()).unwrap();
        let size = functions(&file)
            .into_iter()
            .find(|it| it.name == "f")
            .unwrap()
            .size;
        let mut place = Place {
            function: "f".into(),
            offset: 0,
            size,
            exact: true,
        };
        let line = lines.find(&place).unwrap();
        assert!(line.file.ends_with("a.c"), "{line:?}");
        assert!((3..=4).contains(&line.line), "{line:?}");
        // The end of the call, whose next line is a different one.
        place.exact = false;
        let mut found = Vec::new();
        for offset in 1..size {
            place.offset = offset;
            found.push(lines.find(&place).unwrap().line);
        }
        assert!(found.contains(&5) && found.contains(&6), "{found:?}");
        place.function = "no_such".into();
        assert_eq!(lines.find(&place), None);
    }
}
