//! What the documents say of the tests.
// Tests may panic, and say what they mean with `unwrap`.
#![allow(missing_docs, clippy::unwrap_used)]

use std::fs;

/// Those that name tests, as `module::test_name` in backticks.
const DOCUMENTS: [&str; 4] = [
    "docs/architecture.md",
    "docs/command.md",
    "docs/faults.md",
    "docs/guarantees.md",
];

/// Where the modules are.
const ROOTS: [&str; 4] = ["tests/it", "src", "tests/cli", "tests/soak/src"];

#[test]
fn every_test_that_a_document_names_exists() {
    for document in DOCUMENTS {
        let text = fs::read_to_string(document).unwrap();
        let names: Vec<_> = text
            .split('`')
            .skip(1)
            .step_by(2)
            .filter(|code| is_test_path(code))
            .collect();
        assert!(names.len() > 5, "{document}: {names:?}");
        let missing: Vec<_> = names.into_iter().filter(|name| !exists(name)).collect();
        assert!(missing.is_empty(), "{document} names {missing:#?}");
    }
}

/// `module::test_name`, but not `Type::method`.
fn is_test_path(code: &str) -> bool {
    let is_name = |name: &str| {
        name.starts_with(|first: char| first.is_ascii_lowercase())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    code.contains("::") && code.split("::").all(is_name)
}

/// True if there is a test, or a module of tests, of that name.
fn exists(name: &str) -> bool {
    let (module, test) = name.rsplit_once("::").unwrap();
    let of_test = format!("fn {test}(");
    !sources(name).is_empty() || sources(module).iter().any(|text| text.contains(&of_test))
}

/// The text of a module; `x::tests` may also stand in the file of `x`.
fn sources(module: &str) -> Vec<String> {
    let file = module.replace("::", "/");
    let outer = file.trim_end_matches("/tests");
    ROOTS
        .iter()
        .flat_map(|root| [&file, outer].map(|file| format!("{root}/{file}.rs")))
        .filter_map(|path| fs::read_to_string(path).ok())
        .collect()
}
