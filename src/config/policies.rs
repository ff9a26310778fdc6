//! The folder of policies: which files belong to a set, and their texts. Knows nothing of what they say.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::diag::{Code, Problem, Report};
use crate::model::UpstreamName;
use crate::policy::{File, Sources};

/// Longest file of policies, in bytes.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// Most files of one kind.
const FILES_MAX: usize = 2_000;

/// Reads a folder: `guards/*.cedar`, `evidence/*.cedar` and `tools/*.lock.json`.
///
/// # Errors
/// Everything that cannot be read. A folder with neither guards nor evidence policies is none.
pub fn read_policies(folder: &Path) -> Result<Sources, Vec<Report>> {
    let mut reader = Reader { folder, problems: Vec::new() };
    let sources = Sources {
        guards: reader.files("guards", ".cedar"),
        evidence: reader.files("evidence", ".cedar"),
        pins: reader.files("tools", ".lock.json"),
    };
    if reader.problems.is_empty() && sources.guards.is_empty() && sources.evidence.is_empty() {
        let message = "there is no policy in it: neither guards/*.cedar nor evidence/*.cedar";
        reader.say(&folder.display().to_string(), message.to_owned());
    }
    if reader.problems.is_empty() { Ok(sources) } else { Err(reader.problems) }
}

/// Reads the tests of a folder: `tests/*.yaml`.
///
/// # Errors
/// Everything that cannot be read.
pub fn read_policy_tests(folder: &Path) -> Result<Vec<File>, Vec<Report>> {
    let mut reader = Reader { folder, problems: Vec::new() };
    let files = reader.files("tests", ".yaml");
    if reader.problems.is_empty() { Ok(files) } else { Err(reader.problems) }
}

/// Where a folder has the reviewed tools of an upstream.
pub fn pin_path(folder: &Path, upstream: &UpstreamName) -> PathBuf {
    folder.join("tools").join(format!("{upstream}.lock.json"))
}

/// Reads the lock file of an upstream; `None`: there is none.
///
/// # Errors
/// When it is there and cannot be read.
pub fn read_pin(folder: &Path, upstream: &UpstreamName) -> Result<Option<File>, Report> {
    let path = pin_path(folder, upstream);
    let name = format!("tools/{upstream}.lock.json");
    if matches!(fs::symlink_metadata(&path), Err(error) if error.kind() == io::ErrorKind::NotFound) {
        return Ok(None);
    }
    match text(&path) {
        Ok(text) => Ok(Some(File { name, text })),
        Err(why) => Err(Report::without_text(name, Problem::new(Code::PolicyUnreadable, why))),
    }
}

/// Writes the lock file of an upstream: whoever reads it meanwhile finds the old text or the new one, never a part.
///
/// # Errors
/// When it cannot be written, or is so long that it could not be read again. Then the old file is as it was.
pub fn write_pin(folder: &Path, upstream: &UpstreamName, text: &str) -> io::Result<()> {
    if text.len() as u64 > FILE_BYTES_MAX {
        let why = format!("it would be longer than {} MiB", FILE_BYTES_MAX >> 20);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
    }
    let path = pin_path(folder, upstream);
    let dir = folder.join("tools");
    fs::create_dir_all(&dir)?;
    // With a dot in front, no reader of the folder takes it for one of the set.
    let unfinished = dir.join(format!(".{upstream}.lock.json.{}", std::process::id()));
    let written = write_new(&unfinished, text).and_then(|()| fs::rename(&unfinished, &path));
    if written.is_err() {
        _ = fs::remove_file(&unfinished);
    }
    written?;
    fs::File::open(&dir)?.sync_all()
}

fn write_new(path: &Path, text: &str) -> io::Result<()> {
    // Left by a process of the same number that did not end well.
    _ = fs::remove_file(path);
    let mut file = fs::File::create_new(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

struct Reader<'a> {
    folder: &'a Path,
    problems: Vec<Report>,
}

impl Reader<'_> {
    fn say(&mut self, name: &str, message: String) {
        self.problems.push(Report::without_text(name, Problem::new(Code::PolicyUnreadable, message)));
    }

    /// The files of one kind in the order of their names; none where the folder is not there.
    fn files(&mut self, kind: &str, ending: &str) -> Vec<File> {
        let dir = self.folder.join(kind);
        let paths = match paths(&dir, ending) {
            Ok(paths) => paths,
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.folder.is_dir() => {
                return Vec::new();
            }
            Err(error) => {
                self.say(&dir.display().to_string(), format!("the folder cannot be read: {error}"));
                return Vec::new();
            }
        };
        if paths.len() > FILES_MAX {
            self.say(&dir.display().to_string(), format!("there are more than {FILES_MAX} files"));
            return Vec::new();
        }
        let mut files = Vec::new();
        for path in paths {
            let name = format!("{kind}/{}", path.file_name().unwrap_or_default().to_string_lossy());
            match text(&path) {
                Ok(text) => files.push(File { name, text }),
                Err(why) => self.say(&name, why),
            }
        }
        files
    }
}

fn paths(dir: &Path, ending: &str) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        // Editors leave files with a dot in front, and Kubernetes the folders that its links lead to.
        if name.to_string_lossy().ends_with(ending) && !name.to_string_lossy().starts_with('.') {
            paths.push(dir.join(name));
        }
    }
    paths.sort();
    Ok(paths)
}

fn text(path: &Path) -> Result<String, String> {
    let len = fs::metadata(path).map_err(|error| format!("the file cannot be read: {error}"))?.len();
    if len > FILE_BYTES_MAX {
        return Err(format!("the file is longer than {} MiB", FILE_BYTES_MAX >> 20));
    }
    fs::read_to_string(path).map_err(|error| format!("the file cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(folder: &Path) -> String {
        let reports = read_policies(folder).unwrap_err();
        reports.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn files_are_read_by_kind_and_in_the_order_of_their_names() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("guards");
        fs::create_dir(&dir).unwrap();
        for name in ["b.cedar", "a.cedar", ".a.cedar.swp", ".hidden.cedar", "notes.md"] {
            fs::write(dir.join(name), name).unwrap();
        }
        let sources = read_policies(folder.path()).unwrap();
        let names: Vec<_> = sources.guards.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(names, ["guards/a.cedar", "guards/b.cedar"]);
        assert!(sources.evidence.is_empty() && sources.pins.is_empty());
    }

    #[test]
    fn a_lock_file_is_replaced_as_a_whole_and_nothing_is_left_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let name = UpstreamName::parse("crm").unwrap();
        assert_eq!(read_pin(folder.path(), &name).unwrap(), None);
        for text in ["one", "two"] {
            write_pin(folder.path(), &name, text).unwrap();
            let file = read_pin(folder.path(), &name).unwrap().unwrap();
            assert_eq!((file.name.as_str(), file.text.as_str()), ("tools/crm.lock.json", text));
        }
        let long = "x".repeat(usize::try_from(FILE_BYTES_MAX).unwrap() + 1);
        assert!(write_pin(folder.path(), &name, &long).is_err());
        assert_eq!(read_pin(folder.path(), &name).unwrap().unwrap().text, "two");
        assert_eq!(fs::read_dir(folder.path().join("tools")).unwrap().count(), 1);
        fs::remove_file(pin_path(folder.path(), &name)).unwrap();
        fs::create_dir(pin_path(folder.path(), &name)).unwrap();
        assert!(read_pin(folder.path(), &name).is_err(), "a folder is no lock file, and not none");
        assert!(write_pin(folder.path(), &name, "three").is_err());
        assert_eq!(fs::read_dir(folder.path().join("tools")).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_that_is_not_there_or_empty_and_a_file_that_is_no_text_are_said() {
        let folder = tempfile::tempdir().unwrap();
        assert!(said(folder.path()).contains("there is no policy in it"));
        assert!(said(&folder.path().join("none")).contains("the folder cannot be read"));
        let dir = folder.path().join("guards");
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("a.cedar"), [0xff, 0xfe]).unwrap();
        assert!(said(folder.path()).contains("the file cannot be read"));
    }
}
