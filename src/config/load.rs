//! The way in: finds the file, reads it, reads the environment, and hands both on. The only reader of the
//! environment in the whole program.

use std::env::VarError;
use std::fmt;
use std::fs::File as Handle;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::file::File;
use super::resolve::{self, Resolved};
use super::settings::Settings;
use super::{de, expand, tree};
use crate::diag::{Code, Problem, Report};
#[cfg(feature = "failpoints")]
use crate::failpoint::{BadTrigger, Defect, Trigger};

/// Names the config file when the command line does not.
const CONFIG_VARIABLE: &str = "OUTRIGGER_CONFIG";
/// Names the workflow of calls that name none.
const WORKFLOW_VARIABLE: &str = "OUTRIGGER_WORKFLOW";

#[cfg(feature = "failpoints")]
const FAILPOINT_VARIABLE: &str = "OUTRIGGER_FAILPOINT";
#[cfg(feature = "failpoints")]
const DEFECT_VARIABLE: &str = "OUTRIGGER_DEFECT";

/// Largest config file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// An environment: the process's own, or a test's.
pub trait Env: fmt::Debug {
    /// # Errors
    /// [`VarError`] when the variable is not set, or not UTF-8.
    fn var(&self, name: &str) -> Result<String, VarError>;
}

/// The environment of this process.
#[derive(Clone, Copy, Debug)]
pub struct ProcessEnv;

impl Env for ProcessEnv {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
    fn var(&self, name: &str) -> Result<String, VarError> {
        std::env::var(name)
    }
}

/// Reads the config: of `path`, else of the file that `OUTRIGGER_CONFIG` names, else the built-in defaults.
///
/// # Errors
/// [`Report`] with everything that is wrong, not only the first thing.
pub fn load(path: Option<&Path>, env: &dyn Env) -> Result<Settings, Report> {
    let named = match (path, env.var(CONFIG_VARIABLE)) {
        (Some(path), _) => Some(path.to_owned()),
        (None, Ok(path)) if !path.is_empty() => Some(PathBuf::from(path)),
        (None, Ok(_) | Err(_)) => None,
    };
    let Some(path) = named else {
        return load_text("the built-in config", "", env);
    };
    let name = path.display().to_string();
    let text = read(&path).map_err(|problem| Report::without_text(&name, problem))?;
    let settings = load_text(&name, &text, env)?;
    let problems = unreadable_ca_files(&settings);
    if problems.is_empty() {
        return Ok(Settings { source: Some(path), ..settings });
    }
    Err(Report::new(name, &text, problems))
}

/// The config that `text` says; `name` is what the user calls it. Opens no file.
///
/// # Errors
/// [`Report`] with everything that is wrong, not only the first thing.
pub fn load_text(name: &str, text: &str, env: &dyn Env) -> Result<Settings, Report> {
    let (root, mut problems) = tree::parse(text);
    let Some(mut root) = root else {
        return Err(Report::new(name, text, problems));
    };
    expand::expand(&mut root, env, &mut problems);
    let (file, wrong) = de::read::<File>(&root);
    problems.extend(wrong);
    let Resolved { mut settings, problems: wrong } = resolve::resolve(&file);
    problems.extend(wrong);
    match env.var(WORKFLOW_VARIABLE) {
        Ok(id) if !id.is_empty() => match resolve::workflow(&id) {
            Ok(id) => settings.default_workflow = Some(id),
            Err(mut problem) => {
                problem.message.push_str(" (from the variable OUTRIGGER_WORKFLOW)");
                problems.push(problem);
            }
        },
        Ok(_) | Err(VarError::NotPresent) => {}
        Err(VarError::NotUnicode(_)) => problems.push(Problem::new(
            Code::BadDefaultWorkflow,
            format!("the variable {WORKFLOW_VARIABLE} is not UTF-8"),
        )),
    }
    if problems.is_empty() { Ok(settings) } else { Err(Report::new(name, text, problems)) }
}

/// Where this process is to be killed, as `OUTRIGGER_FAILPOINT` says, and what is built wrong in it, as
/// `OUTRIGGER_DEFECT` says.
///
/// # Errors
/// When a variable is set to what is none.
#[cfg(feature = "failpoints")]
pub fn failpoints(env: &dyn Env) -> Result<(Option<Trigger>, Option<Defect>), BadTrigger> {
    let trigger = env.var(FAILPOINT_VARIABLE).ok().map(|text| text.parse()).transpose()?;
    let defect = env.var(DEFECT_VARIABLE).ok().map(|text| text.parse()).transpose()?;
    Ok((trigger, defect))
}

fn read(path: &Path) -> Result<String, Problem> {
    let unreadable = |what: String, help: &str| Problem::new(Code::ConfigUnreadable, what).help(help);
    let mut text = String::new();
    let read = Handle::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text));
    let shown = path.display();
    match read {
        Ok(_) if text.len() as u64 > FILE_BYTES_MAX => {
            Err(unreadable(format!("{shown} is larger than 1 MiB"), "this is hardly the config file"))
        }
        Ok(_) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(unreadable(
            format!("there is no file {shown}"),
            "check the path; without any file the built-in defaults apply (leave `--config` away)",
        )),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err(unreadable(format!("{shown} is not UTF-8 text"), "save the file as UTF-8"))
        }
        Err(error) => {
            Err(unreadable(format!("cannot read {shown}: {error}"), "check that it is a file you may read"))
        }
    }
}

fn unreadable_ca_files(settings: &Settings) -> Vec<Problem> {
    let upstreams = settings.upstreams.values();
    let wrong = upstreams.filter_map(|upstream| {
        let path = upstream.ca_file.as_ref()?;
        let error = Handle::open(path).and_then(|mut file| file.read(&mut [0])).err()?;
        let what = format!("cannot read the ca_file of `{}`, {}: {error}", upstream.name, path.display());
        Some(Problem::new(Code::BadCaFile, what).help("a relative path is relative to the working directory"))
    });
    wrong.collect()
}
