//! What a sweep has tried already, a line a point, so that it can be interrupted.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use crucible_artefacts::Fingerprint;
use crucible_engine::Scenario;
use crucible_engine::record::Versions;
use crucible_engine::scenario::Case;
use crucible_engine::sweep::{Point, Tried};

/// The file of a sweep under way, or done.
pub struct Done {
    file: File,
    tried: HashMap<(String, u64), Tried>,
}

/// What the points depend on, in one line: of other kernels, programs or sources they are
/// other points.
pub fn identity(
    scenario: &Scenario,
    case: &Case,
    versions: &Versions,
    broken: Option<&str>,
) -> Result<String> {
    let sources = scenario
        .sources()
        .context("cannot read the scenario's sources")?;
    let mut hash = Fingerprint::new("sweep 1");
    for source in &sources {
        hash = hash
            .add(&source.path, &source.content)
            .add("mode", source.mode.to_string());
    }
    let hash = hash
        .add(
            "case",
            format!("{:?} {:?} {:?}", case.argv, case.env, case.normalise),
        )
        .add("versions", format!("{:?} {broken:?}", versions.parts));
    Ok(format!("{{\"sweep\":\"{}\"}}", hash.finish()))
}

impl Done {
    /// The file, begun anew, or gone on with. The inner error is a wrong command line.
    pub fn open(path: &Path, identity: &str, resume: bool) -> Result<Result<Self, String>> {
        let at = || format!("cannot write {}", path.display());
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).with_context(at)?;
        }
        let mut tried = HashMap::new();
        if resume {
            let text = fs::read_to_string(path).unwrap_or_default();
            let mut lines = text.lines();
            match lines.next() {
                None => {
                    return Ok(Err(format!(
                        "there is nothing to resume: {} is not there; leave --resume out",
                        path.display()
                    )));
                }
                Some(line) if line != identity => {
                    return Ok(Err(
                        "the sweep to resume was of another kernel or other sources; leave --resume out"
                            .to_owned(),
                    ));
                }
                Some(_) => {}
            }
            // The last line may have been cut off: that point is tried again.
            for one in lines.map_while(|line| serde_json::from_str::<Tried>(line).ok()) {
                tried.insert((one.point.task.clone(), one.point.nth), one);
            }
        }
        // Written anew, whole lines only.
        let mut file = File::create(path).with_context(at)?;
        let mut text = format!("{identity}\n");
        for one in tried.values() {
            text.push_str(&serde_json::to_string(one)?);
            text.push('\n');
        }
        file.write_all(text.as_bytes()).with_context(at)?;
        Ok(Ok(Self { file, tried }))
    }

    /// What was tried of some points, and what is left of them.
    pub fn split(&mut self, points: &[Point]) -> (Vec<Tried>, Vec<Point>) {
        let mut tried = Vec::new();
        let mut left = Vec::new();
        for point in points {
            match self.tried.remove(&(point.task.clone(), point.nth)) {
                Some(one) => tried.push(one),
                None => left.push(point.clone()),
            }
        }
        (tried, left)
    }

    /// Keeps one more.
    pub fn add(&mut self, tried: &Tried) -> Result<()> {
        let line = format!("{}\n", serde_json::to_string(tried)?);
        self.file
            .write_all(line.as_bytes())
            .context("cannot keep what a point came to")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crucible_engine::sweep::Came;

    fn one(nth: u64) -> Tried {
        Tried {
            point: Point {
                task: "2".into(),
                nth,
                what: "vfork".into(),
            },
            came: Came::Passed,
            cause: String::new(),
            lines: Vec::new(),
            stops: Default::default(),
            missed: 0,
            by_control: false,
            ms: 1,
        }
    }

    #[test]
    fn an_interrupted_sweep_goes_on_behind_its_last_whole_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        let mut done = Done::open(&path, "x", false).unwrap().unwrap();
        done.add(&one(1)).unwrap();
        done.add(&one(2)).unwrap();
        drop(done);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, &text[..text.len() - 9]).unwrap();
        let points: Vec<_> = (1..4).map(|nth| one(nth).point).collect();
        let mut done = Done::open(&path, "x", true).unwrap().unwrap();
        let (tried, left) = done.split(&points);
        assert_eq!(tried.len(), 1);
        assert_eq!(left, points[1..]);
    }

    #[test]
    fn another_kernel_s_points_are_not_gone_on_with() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        assert!(Done::open(&path, "x", true).unwrap().is_err());
        drop(Done::open(&path, "x", false).unwrap().unwrap());
        assert!(Done::open(&path, "y", true).unwrap().is_err());
    }
}
