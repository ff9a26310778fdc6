//! The house rules that no lint knows: who may use whom, what is pure, what a file looks like. Reads the
//! sources as text, so a rule holds for code that this build leaves out as well.

mod rust;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use outrigger::diag::Code;
use rust::{Module, Source};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A module uses only layers below its own; modules of one layer do not know each other. Modules that are
/// planned have their place already. `ARCHITECTURE.md` shows the same table.
const LAYERS: [&[&str]; 9] = [
    &["model", "diag", "json"],
    &["wire", "replay", "policy", "meter", "route", "passport"],
    &["failpoint", "telemetry"],
    &["journal"],
    &["identity", "limits", "cache", "upstream", "approval", "audit"],
    &["proxy", "timeline", "config"],
    &["admin"],
    &["app"],
    &["cli"],
];

/// Layers that are values in, values out.
const PURE_LAYERS: usize = 2;

/// What a pure module never names: runtimes, sockets, files, processes, the environment, the clock.
const IMPURE: [&str; 18] = [
    "async_std",
    "hyper",
    "hyper_util",
    "mio",
    "rustix",
    "rustls",
    "sled",
    "socket2",
    "tokio",
    "tokio_util",
    "std::env",
    "std::fs",
    "std::net",
    "std::os",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
];

/// Modules that may use fewer than their layer allows.
const NARROW: [(&str, &[&str]); 1] = [("telemetry", &["model"])];

/// Longest file, in lines.
const LINES_MAX: usize = 500;

/// Files that are longer, and why.
const LONG: [(&str, &str); 0] = [];

/// Texts that belong to one machine.
const MACHINE_PATHS: [&str; 4] =
    [concat!("/ho", "me/"), concat!("/ro", "ot/"), concat!("/Us", "ers/"), concat!("/wo", "rk/")];

/// Hosts that a lock file may pick up from whoever wrote it; whoever installs brings their own.
const REGISTRY_HOSTS: [&str; 4] = [
    concat!("registry.npm", "js.org"),
    concat!("files.python", "hosted.org"),
    concat!("py", "pi.org/simple"),
    concat!("index.cra", "tes.io"),
];

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// What is wrong with the uses of one module of the library.
fn layer_faults(source: &Source) -> Vec<String> {
    let own = source.module.top();
    let Some(own_layer) = layer(own) else {
        return vec![format!("`{own}` is in no layer of the table")];
    };
    let narrow = NARROW.iter().find(|(module, _)| *module == own).map(|(_, allowed)| *allowed);
    let uses: BTreeSet<(String, usize)> = source.library_uses().collect();
    let fault = |(used, line): (String, usize)| {
        if used == own {
            return None;
        }
        let why = match layer(&used) {
            None => format!("`{used}` is in no layer of the table"),
            Some(layer) if layer == own_layer => format!("`{own}` and `{used}` are of one layer"),
            Some(layer) if layer > own_layer => format!("`{used}` is above `{own}`"),
            Some(_) if narrow.is_some_and(|allowed| !allowed.contains(&used.as_str())) => {
                format!("`{own}` may use only {narrow:?}")
            }
            Some(_) => return None,
        };
        Some(format!("line {line}: {why}"))
    };
    uses.into_iter().filter_map(fault).collect()
}

/// What a module of a pure layer names that it must not.
fn purity_faults(source: &Source) -> Vec<String> {
    if layer(source.module.top()).is_none_or(|layer| layer >= PURE_LAYERS) {
        return Vec::new();
    }
    let begins = |path: &str, with: &str| {
        path == with || path.strip_prefix(with).is_some_and(|rest| rest.starts_with("::"))
    };
    let paths = source.paths.iter().filter_map(|path| {
        let text = path.segments.join("::");
        let impure = IMPURE.iter().find(|impure| begins(&text, impure))?;
        Some(format!("line {}: `{impure}` in a pure layer", path.line))
    });
    let clocks = source.paths.iter().filter_map(|path| {
        let clock =
            path.segments.iter().find(|segment| ["Instant", "SystemTime"].contains(&segment.as_str()))?;
        Some(format!("line {}: `{clock}` in a pure layer; take the time as an argument", path.line))
    });
    paths.chain(clocks).collect()
}

/// What is wrong with the form of one Rust file.
fn form_faults(name: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if !text.starts_with("//! ") {
        faults.push("does not begin with `//!` and what it owns".to_owned());
    }
    let lines = text.lines().count();
    if lines > LINES_MAX && !LONG.iter().any(|(long, _)| *long == name) {
        faults.push(format!("has {lines} lines, more than {LINES_MAX}"));
    }
    if let Some(line) = rust::behind_tests(text) {
        faults.push(format!("line {line}: code behind `mod tests`, which comes last"));
    }
    faults
}

/// What is wrong with one text, whatever it is.
fn text_faults(text: &str) -> Vec<String> {
    const LATER: &str = concat!("TO", "DO");
    const BROKEN: &str = concat!("FIX", "ME");
    let mut faults = Vec::new();
    for (line, content) in (1..).zip(text.lines()) {
        if content.contains(BROKEN) {
            faults.push(format!("line {line}: {BROKEN} may not be merged"));
        }
        let mut parts = content.split(LATER);
        if parts.next().is_some() && parts.any(|rest| !names_issue(rest)) {
            faults.push(format!("line {line}: {LATER} names no issue; write {LATER}(#12)"));
        }
        for word in MACHINE_PATHS.iter().chain(&REGISTRY_HOSTS) {
            if content.contains(word) {
                faults.push(format!("line {line}: `{word}` belongs to one machine"));
            }
        }
    }
    faults
}

fn names_issue(behind: &str) -> bool {
    let number = behind.strip_prefix("(#").and_then(|rest| rest.split_once(')')).map(|(number, _)| number);
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Every file below `folder` that somebody wrote, with its path from the root.
fn files(folder: &str, extensions: &[&str]) -> Vec<(String, String)> {
    const NOT_OURS: [&str; 6] = [".git", "target", "node_modules", "outrigger-data", "__pycache__", ".venv"];
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from(ROOT).join(folder)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for path in entries.map(|entry| entry.expect("a folder can be read").path()) {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if path.is_dir() && !NOT_OURS.contains(&name) {
                folders.push(path);
            } else if path.is_file() && has_extension(&path, extensions) {
                // What is not text has no words to look at.
                let Ok(text) = fs::read_to_string(&path) else { continue };
                let from_root = path.strip_prefix(ROOT).expect("it is below the root");
                found.push((from_root.display().to_string(), text));
            }
        }
    }
    found.sort();
    found
}

fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    extensions.contains(&extension)
}

#[track_caller]
fn no_faults(faults: impl IntoIterator<Item = (String, Vec<String>)>) {
    let all: Vec<String> = faults
        .into_iter()
        .flat_map(|(name, faults)| faults.into_iter().map(move |fault| format!("{name}: {fault}")))
        .collect();
    assert!(all.is_empty(), "\n{}\n", all.join("\n"));
}

/// The library's sources without its tests, and without `lib.rs` and `main.rs`, which name everything.
fn library() -> Vec<(String, Source)> {
    let files = files("src", &["rs"]);
    let tests: BTreeSet<String> = files
        .iter()
        .flat_map(|(name, text)| {
            Module::of_file(name).map(|module| rust::test_modules(&module, text)).unwrap_or_default()
        })
        .collect();
    let sources = files.into_iter().filter_map(|(name, text)| {
        let module = Module::of_file(&name)?;
        (!module.is_within(&tests)).then(|| (name, Source::parse(module, &text)))
    });
    sources.collect()
}

#[test]
fn modules_use_only_lower_layers() {
    let library = library();
    assert!(library.len() > 50, "only {} sources found", library.len());
    no_faults(library.iter().map(|(name, source)| (name.clone(), layer_faults(source))));
}

#[test]
fn pure_layers_are_pure() {
    no_faults(library().iter().map(|(name, source)| (name.clone(), purity_faults(source))));
}

#[test]
fn rust_files_have_the_form() {
    let files = ["src", "tests", "benches"].into_iter().flat_map(|folder| files(folder, &["rs"]));
    no_faults(files.map(|(name, text)| (name.clone(), form_faults(&name, &text))));
}

#[test]
fn texts_keep_the_house_rules() {
    let extensions =
        ["rs", "md", "toml", "yaml", "yml", "json", "py", "js", "mjs", "ts", "sh", "txt", "snap", ""];
    let files = files(".", &extensions);
    assert!(files.iter().any(|(name, _)| name == "README.md"));
    no_faults(files.into_iter().map(|(name, text)| (name, text_faults(&text))));
}

#[test]
fn long_files_are_listed_only_while_they_are_long() {
    for (name, reason) in LONG {
        let text = fs::read_to_string(Path::new(ROOT).join(name)).unwrap_or_default();
        assert!(text.lines().count() > LINES_MAX, "{name} is no longer long");
        assert!(!reason.is_empty(), "{name} is long for no reason");
    }
}

#[test]
fn pages_and_codes_belong_together() {
    let pages: BTreeSet<String> =
        files("src/diag/codes", &["md"]).into_iter().map(|(name, _)| name).collect();
    let codes: BTreeSet<String> = Code::ALL.iter().map(|code| format!("src/diag/codes/{code}.md")).collect();
    assert_eq!(pages, codes);
}

#[test]
fn the_architecture_shows_the_layers_that_are_enforced() {
    let text = fs::read_to_string(Path::new(ROOT).join("ARCHITECTURE.md")).expect("ARCHITECTURE.md is there");
    for (number, layer) in LAYERS.iter().enumerate() {
        let line = text.lines().map(str::trim).find(|line| line.starts_with(&format!("L{number} ")));
        let line = line.unwrap_or_else(|| panic!("ARCHITECTURE.md does not show L{number}"));
        let words: Vec<&str> = line.split_whitespace().collect();
        for module in *layer {
            let is_there = Path::new(ROOT).join("src").join(module).is_dir();
            assert_eq!(words.contains(module), is_there, "L{number} and `{module}`: `{line}`");
        }
    }
}

#[track_caller]
fn check(faults: &[String], expected: &[&str]) {
    assert_eq!(faults, expected);
}

fn source(file: &str, text: &str) -> Source {
    Source::parse(Module::of_file(file).expect("a file of the library"), text)
}

#[test]
fn the_layer_rule_finds_every_way_of_using_a_module() {
    let faults = |text: &str| layer_faults(&source("src/wire/sse.rs", text));
    check(&faults("use crate::model::Call;\nuse super::fold;\nuse crate::json;"), &[]);
    check(&faults("use crate::journal::Journal;"), &["line 1: `journal` is above `wire`"]);
    check(
        &faults("use crate::{model::Call,\n replay::{self}};"),
        &["line 2: `wire` and `replay` are of one layer"],
    );
    check(&faults("fn f() { crate::proxy::run() }"), &["line 1: `proxy` is above `wire`"]);
    check(&faults("use super::super::upstream::Client;"), &["line 1: `upstream` is above `wire`"]);
    check(&faults("mod inner { use super::super::super::cli; }"), &["line 1: `cli` is above `wire`"]);
    check(&faults("use crate::nowhere::X;"), &["line 1: `nowhere` is in no layer of the table"]);
    check(&faults("// use crate::cli;\nlet _ = \"crate::cli\"; /* crate::app */"), &[]);
    check(&faults("#[cfg(test)]\nmod tests { use crate::cli; }"), &[]);
    check(&faults("#[cfg(test)]\nuse crate::cli;"), &["line 2: `cli` is above `wire`"]);
    check(&faults("macro_rules! m { () => { $crate::app::x() } }"), &["line 1: `app` is above `wire`"]);
    check(&faults("pub(in crate::wire) fn f() {}"), &[]);
    let telemetry = source("src/telemetry/mod.rs", "use crate::model::X;\nuse crate::wire::Y;");
    check(&layer_faults(&telemetry), &["line 2: `telemetry` may use only Some([\"model\"])"]);
    check(&layer_faults(&source("src/stray/mod.rs", "")), &["`stray` is in no layer of the table"]);
}

#[test]
fn the_purity_rule_finds_clocks_files_and_runtimes() {
    let faults = |text: &str| purity_faults(&source("src/model/time.rs", text));
    check(&faults("use std::time::Duration;\nuse std::fmt;"), &[]);
    check(&faults("use std::{fmt, fs};"), &["line 1: `std::fs` in a pure layer"]);
    check(&faults("fn f() { tokio::spawn(x) }"), &["line 1: `tokio` in a pure layer"]);
    check(&faults("fn f() { let tokio = 1; }"), &[]);
    check(
        &faults("use std::time;\nfn f() { time::Instant::now(); }"),
        &["line 2: `Instant` in a pure layer; take the time as an argument"],
    );
    check(&faults("let x = std::env::var(\"X\");"), &["line 1: `std::env` in a pure layer"]);
    check(&purity_faults(&source("src/journal/mod.rs", "use std::fs;")), &[]);
}

#[test]
fn the_form_rule_wants_a_header_and_tests_last() {
    check(
        &form_faults("src/x.rs", "//! Owns x.\n\nfn f() {}\n\n#[cfg(test)]\nmod tests {\n    fn g() {}\n}\n"),
        &[],
    );
    check(&form_faults("src/x.rs", "fn f() {}\n"), &["does not begin with `//!` and what it owns"]);
    let middle = "//! X.\n#[cfg(test)]\nmod tests {\n    fn g() { \"}\" }\n}\nfn f() {}\n";
    check(&form_faults("src/x.rs", middle), &["line 6: code behind `mod tests`, which comes last"]);
    check(
        &form_faults("src/x.rs", "//! X.\n#[cfg(test)]\nmod tests;\nmod b;\n"),
        &["line 4: code behind `mod tests`, which comes last"],
    );
    let long = format!("//! X.\n{}", "\n".repeat(LINES_MAX));
    check(&form_faults("src/x.rs", &long), &["has 501 lines, more than 500"]);
}

#[test]
fn the_text_rule_finds_unfinished_work_and_one_machines_paths() {
    let later = concat!("TO", "DO");
    check(&text_faults("fine\n"), &[]);
    check(&text_faults(&format!("// {later}(#12): later\n")), &[]);
    check(
        &text_faults(&format!("a\n// {later}: later\n")),
        &[&format!("line 2: {later} names no issue; write {later}(#12)")],
    );
    check(
        &text_faults(&format!("{later}(#)")),
        &[&format!("line 1: {later} names no issue; write {later}(#12)")],
    );
    check(&text_faults(concat!("FIX", "ME")), &[concat!("line 1: FIX", "ME may not be merged")]);
    check(
        &text_faults(concat!("see /ho", "me/me/x")),
        &[concat!("line 1: `/ho", "me/` belongs to one machine")],
    );
}
