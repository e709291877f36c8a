//! The order of the modules: imports point downward, without a circle, and files stay short.
//!
//! `docs/architecture.md` has the picture.
// Tests may panic, and say what they mean with `unwrap`.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The modules of the crate, from the lowest to the highest: each may import those before it.
const ORDER: [&str; 28] = [
    "sync",
    "clock",
    "backoff",
    "key",
    "lease",
    "watch",
    "error",
    "credentials",
    "health",
    "holder",
    "stats",
    "observer",
    "op",
    "fence",
    "config",
    "table",
    "session",
    "connect",
    "worker",
    "cancel",
    "guard",
    "with_lock",
    "acquire",
    "semaphore",
    "manager",
    "metrics",
    "builder",
    "lib",
];

/// Beyond this a file has more than one reason to exist. `lib.rs` is the crate's manual.
const MAX_LINES: usize = 420;

type Imports = BTreeMap<String, BTreeSet<String>>;

#[test]
fn modules_import_only_those_below_them() {
    let rank = |module: &str| ORDER.iter().position(|known| *known == module);
    let mut upward = Vec::new();
    // The command is another crate, on the public API.
    let library = sources("src")
        .into_iter()
        .filter(|(path, _)| !path.starts_with("bin"));
    for (path, code) in library {
        let module = top(&path);
        let own = rank(&module).unwrap_or_else(|| panic!("{module} has no place in ORDER"));
        for imported in names_after(&code, "crate::") {
            if imported != module && rank(&imported).is_some_and(|rank| rank >= own) {
                upward.push(format!("{} imports {imported}", path.display()));
            }
        }
    }
    assert!(upward.is_empty(), "{upward:#?}");
}

#[test]
fn files_of_one_folder_import_each_other_in_no_circle() {
    for root in [
        "src",
        "src/bin/distlock",
        "benches/report/src",
        "benches/subjects/src",
        "tests/soak/src",
    ] {
        let mut folders: BTreeMap<PathBuf, Imports> = BTreeMap::new();
        for (path, code) in sources(root) {
            let folder = path.parent().unwrap().to_owned();
            let file = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let mut imported = names_after(&code, "super::");
            if folder.as_os_str().is_empty() {
                imported.extend(names_after(&code, "crate::"));
            }
            imported.remove(&file);
            // The root names all files, as what it is made of.
            if !["lib", "main"].contains(&&*file) {
                folders.entry(folder).or_default().insert(file, imported);
            }
        }
        for (folder, imports) in folders {
            let circle = circle(&imports);
            assert!(circle.is_empty(), "{root}/{}: {circle:?}", folder.display());
        }
    }
}

#[test]
fn no_file_is_too_long() {
    let long: Vec<_> = files(Path::new("src"))
        .into_iter()
        .map(|path| (fs::read_to_string(&path).unwrap().lines().count(), path))
        .filter(|(lines, path)| *lines > MAX_LINES && !path.ends_with("lib.rs"))
        .collect();
    assert!(long.is_empty(), "{long:#?}");
}

/// The modules that only import each other: what is left when all have been taken out again and
/// again that import none of the others.
fn circle(imports: &Imports) -> Vec<&String> {
    let mut left: Vec<&String> = imports.keys().collect();
    loop {
        let before = left.len();
        let now = left.clone();
        left.retain(|module| now.iter().any(|other| imports[*module].contains(*other)));
        if left.len() == before {
            return left;
        }
    }
}

/// The files below `root`, by their path in it, without comments and tests.
fn sources(root: &str) -> Vec<(PathBuf, String)> {
    files(Path::new(root))
        .into_iter()
        .filter(|path| !is_test(path))
        .map(|path| {
            let code = code(&fs::read_to_string(&path).unwrap());
            (path.strip_prefix(root).unwrap().to_owned(), code)
        })
        .collect()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    entries
        .map(|entry| entry.unwrap().path())
        .flat_map(|path| match path.is_dir() {
            true => files(&path),
            false => vec![path],
        })
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect()
}

fn is_test(path: &Path) -> bool {
    path.with_extension("")
        .iter()
        .any(|part| part == "tests" || part == "model")
}

/// The text before the module of tests, without comments.
fn code(text: &str) -> String {
    text.lines()
        .take_while(|line| !line.starts_with("mod tests {"))
        .map(|line| line.split("//").next().unwrap())
        .collect::<Vec<_>>()
        .join("\n")
}

/// The module of the crate that a file belongs to.
fn top(path: &Path) -> String {
    let first = Path::new(path.iter().next().unwrap()).with_extension("");
    first.to_str().unwrap().to_owned()
}

/// The names that follow `prefix`, also in braces.
fn names_after(code: &str, prefix: &str) -> BTreeSet<String> {
    let name = |text: &str| -> String {
        let is_of_name = |c: &char| c.is_ascii_alphanumeric() || *c == '_';
        text.trim_start().chars().take_while(is_of_name).collect()
    };
    code.split(prefix)
        .skip(1)
        .flat_map(|rest| match rest.strip_prefix('{') {
            Some(list) => list
                .split('}')
                .next()
                .unwrap()
                .split(',')
                .map(name)
                .collect(),
            None => vec![name(rest)],
        })
        .filter(|name| !name.is_empty())
        .collect()
}
