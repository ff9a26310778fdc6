//! Every config that the repository shows is loaded: the files in `config/`, the YAML in `README.md`, and
//! the committed JSON Schema. Also what the README says to type.

use std::env::VarError;
use std::fs;
use std::path::{Path, PathBuf};

use outrigger::config::{self, Env, Settings};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

#[derive(Debug)]
struct NoEnv;

impl Env for NoEnv {
    fn var(&self, _: &str) -> Result<String, VarError> {
        Err(VarError::NotPresent)
    }
}

fn example(name: &str) -> (PathBuf, String) {
    let path = Path::new(ROOT).join("config").join(name);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    (path, text)
}

fn load(path: &Path) -> Settings {
    config::load(Some(path), &NoEnv).unwrap_or_else(|report| panic!("{report}"))
}

fn built_in() -> Settings {
    config::load(None, &NoEnv).expect("the defaults are right")
}

#[test]
fn every_example_loads_and_names_its_schema() {
    let mut seen = 0;
    for entry in fs::read_dir(Path::new(ROOT).join("config")).expect("config/ is there") {
        let path = entry.expect("config/ can be read").path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            load(&path);
            let text = fs::read_to_string(&path).expect("it was just read");
            let header = "# yaml-language-server: $schema=./outrigger.schema.json\n";
            assert!(text.starts_with(header), "{} does not name its schema", path.display());
            seen += 1;
        }
    }
    assert!(seen >= 3, "only {seen} examples in config/");
}

#[test]
fn the_file_of_defaults_is_the_built_in_config() {
    let (path, _) = example("defaults.yaml");
    assert_eq!(Settings { source: None, ..load(&path) }, built_in());
}

#[test]
fn the_file_of_defaults_has_every_key_and_every_default_of_the_schema() {
    let (_, text) = example("defaults.yaml");
    let schema = config::schema();
    let sections = schema["$defs"].as_object().expect("definitions").values().chain([&schema]);
    for section in sections {
        for (key, property) in section["properties"].as_object().expect("properties") {
            let default = &property["default"];
            let default = match default.as_str() {
                Some(text) => text.to_owned(),
                None if default.is_null() => String::new(),
                None => default.to_string(),
            };
            let line = format!("{key}: {default}");
            let line = line.trim_end();
            let quoted = format!("{key}: \"{default}\"");
            assert!(text.contains(line) || text.contains(&quoted), "config/defaults.yaml has no `{line}`");
        }
    }
}

#[test]
fn the_committed_schema_is_what_the_program_prints() {
    let (path, committed) = example("outrigger.schema.json");
    assert!(
        committed == config::schema_text(),
        "{} is out of date: write it anew with `cargo run -- schema > config/outrigger.schema.json`",
        path.display()
    );
}

#[test]
fn the_example_of_the_readme_is_the_committed_one() {
    let settings = load(&example("outrigger.yaml").0);
    let names: Vec<&str> = settings.upstreams.keys().map(|name| name.as_str()).collect();
    assert_eq!(names, ["anthropic", "crm", "gemini", "openai", "payments"]);
    let bindings = config::env_bindings(&settings);
    let mcp = bindings.iter().find(|(name, _)| name.as_str() == "MCP_URL").expect("payments sets it").1;
    assert_eq!((mcp.upstream.as_str(), mcp.path.as_str()), ("payments", "/mcp"));
}

/// The fenced blocks of `language` in a Markdown file.
fn fenced(markdown: &str, language: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut open: Option<(bool, String)> = None;
    for line in markdown.lines() {
        match (&mut open, line.trim_start().strip_prefix("```")) {
            (None, Some(info)) => open = Some((info.trim() == language, String::new())),
            (Some(_), Some(_)) => {
                blocks.extend(open.take().filter(|(wanted, _)| *wanted).map(|(_, text)| text))
            }
            (Some((_, text)), None) => {
                text.push_str(line);
                text.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a fence is not closed");
    blocks
}

fn readme() -> String {
    fs::read_to_string(Path::new(ROOT).join("README.md")).expect("README.md is there")
}

#[test]
fn every_config_in_the_readme_loads() {
    let blocks = fenced(&readme(), "yaml");
    assert!(!blocks.is_empty(), "the README shows no config");
    for block in blocks {
        if let Err(report) = config::load_text("README.md", &block, &NoEnv) {
            panic!("{report}\n{block}");
        }
    }
}

#[test]
fn every_command_in_the_readme_exists() {
    let help = std::process::Command::new(env!("CARGO_BIN_EXE_outrigger"))
        .arg("--help")
        .output()
        .expect("the program starts");
    let help = String::from_utf8(help.stdout).expect("help is text");
    let mut seen = 0;
    for command in fenced(&readme(), "bash").iter().flat_map(|block| block.lines()).filter_map(sub_command) {
        let known = help.lines().any(|line| line.split_whitespace().next() == Some(command));
        assert!(known, "README.md uses `outrigger {command}`, which `outrigger --help` does not list");
        seen += 1;
    }
    assert!(seen >= 4, "the README shows only {seen} commands");
}

#[test]
fn the_programs_that_a_page_shows_are_the_files_that_are_run() {
    let read = |name: &str| fs::read_to_string(Path::new(ROOT).join("docs").join(name)).expect("it is there");
    let shown = fenced(&read("replay-tests.md"), "python");
    assert_eq!(shown, ["conftest.py", "test_agent.py"].map(|name| read(&format!("examples/pytest/{name}"))));
}

/// `serve` of a line that runs `outrigger serve`, in any of the ways a shell has.
fn sub_command(line: &str) -> Option<&str> {
    let code = line.split('#').next().unwrap_or_default();
    let mut words = code.split_whitespace().skip_while(|word| {
        let program = word.rsplit('/').next().unwrap_or_default();
        program != "outrigger" && *word != "--"
    });
    let first = words.next()?;
    let is_cargo = code.trim_start().starts_with("cargo run");
    (first != "--" || is_cargo).then(|| words.next())?
}

#[test]
fn sub_commands_are_found_in_every_way_of_writing_them() {
    for (line, expected) in [
        ("outrigger serve --config x", Some("serve")),
        ("./target/release/outrigger run --workflow x -- python agent.py", Some("run")),
        ("cargo run --release -- demo", Some("demo")),
        ("FOO=1 outrigger check", Some("check")),
        ("export OPENAI_BASE_URL=http://127.0.0.1:4747/openai/v1", None),
        ("# outrigger serve", None),
        ("cargo build --release", None),
    ] {
        assert_eq!(sub_command(line), expected, "line: {line}");
    }
}
