//! A folder for the files of a test or a benchmark.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// A new, empty folder. It is removed with everything in it when it goes out of scope.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let (pid, count) = (std::process::id(), COUNT.fetch_add(1, Relaxed));
        let path = std::env::temp_dir().join(format!("rustmemc-test-{pid}-{count}"));
        // An earlier process with the same id may have been killed before it removed its folder.
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("a folder can be made");
        // The server's messages show the path in this form.
        Folder(fs::canonicalize(path).expect("it exists"))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The path of a file of this name in the folder. The file need not exist.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The names of all files in the folder, sorted.
    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).expect("the folder exists");
        let mut names: Vec<String> = entries
            .map(|entry| {
                let name = entry.expect("it can be read").file_name();
                name.to_string_lossy().into_owned()
            })
            .collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The content of a file.
#[track_caller]
pub fn content(path: &Path) -> Vec<u8> {
    fs::read(path).expect("the file exists")
}
