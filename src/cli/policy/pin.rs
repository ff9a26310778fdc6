//! `outrigger policy pin`: the tools of an upstream as they are now, written down for review.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::app::{self, ListToolsError};
use crate::cli::failure::{Exit, Failure};
use crate::cli::out;
use crate::config::{self, Env, ProcessEnv, Settings, Upstream};
use crate::diag::{Code, nearest};
use crate::model::{Dialect, UpstreamName};
use crate::policy::lock::{self, Listed, Origin, RenewError, Renewed, Unpinnable};
use crate::policy::openapi;

/// Longest OpenAPI file, in bytes.
const OPENAPI_BYTES_MAX: u64 = 16 << 20;
/// Where most MCP servers answer, behind their host.
const MCP_PATH: &str = "/mcp";
/// Most faults of a server's tools that are named.
const FAULTS_SHOWN_MAX: usize = 10;

/// Write down the tools of an upstream as they are now, for review
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Writes tools/<UPSTREAM>.lock.json, and says which tools were added (+), removed (-) and changed (~), \
                  and in what. What is written there by hand (`groups`, `extra_args`, `derive`) is kept of tools that \
                  are still there."
)]
pub(super) struct Args {
    /// An upstream of the config
    #[arg(value_name = "UPSTREAM")]
    upstream: String,
    /// The folder of policies
    #[arg(long, value_name = "DIR", default_value = "policies")]
    policies: PathBuf,
    /// The config file [default: what OUTRIGGER_CONFIG names, else the built-in config]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The OpenAPI file (3.0 or 3.1, JSON or YAML) that describes an upstream of the dialect `http`
    #[arg(long, value_name = "FILE")]
    openapi: Option<PathBuf>,
    /// Where the MCP server answers, behind the upstream's URL [default: the path in the upstream's `env`, else nothing
    /// where its URL has a path, else /mcp]
    #[arg(long, value_name = "PATH", conflicts_with = "openapi")]
    path: Option<String>,
    /// Send this header with the value of an environment variable, such as Authorization=PAYMENTS_AUTH
    #[arg(long, value_name = "HEADER=VARIABLE", conflicts_with = "openapi")]
    header_env: Vec<String>,
    /// Write nothing, and fail where something would change
    #[arg(long)]
    check: bool,
}

pub(super) async fn run(args: &Args) -> Result<ExitCode, Failure> {
    let settings = config::load(args.config.as_deref(), &ProcessEnv)?;
    let upstream = find(&settings, &args.upstream)?;
    let listed = match (upstream.dialect, &args.openapi) {
        (Dialect::Mcp, None) => listed(args, upstream).await?,
        (Dialect::Http, Some(file)) => described(file, upstream)?,
        (Dialect::Mcp, Some(_)) => {
            let message = format!("`{}` is an MCP server, which lists its tools itself", upstream.name);
            return Err(usage(message).help("leave `--openapi` away"));
        }
        (Dialect::Http, None) => {
            let message = format!("`{}` is an HTTP API, which lists no tools", upstream.name);
            return Err(usage(message).help("name the file that describes it: `--openapi FILE`"));
        }
        (Dialect::Anthropic | Dialect::Gemini | Dialect::Openai, _) => {
            let message = format!("`{}` is a model API and has no tools to pin", upstream.name);
            return Err(usage(message).help("guards judge its calls as `llm.call`, without a lock file"));
        }
    };
    let old =
        config::read_pin(&args.policies, &upstream.name).map_err(|report| Failure::Reports(vec![report]))?;
    let renewed = lock::renew(&listed, old.as_ref()).map_err(|error| unpinned(&upstream.name, error))?;
    finish(args, &upstream.name, &renewed)
}

/// Says what has changed, and writes it.
fn finish(args: &Args, name: &UpstreamName, renewed: &Renewed) -> Result<ExitCode, Failure> {
    let path = config::pin_path(&args.policies, name);
    let shown = path.display();
    let Some(changes) = &renewed.changes else {
        out::line(&format!("{shown} is as it was: {} tools", renewed.tools));
        return Ok(ExitCode::SUCCESS);
    };
    if !args.check {
        config::write_pin(&args.policies, name, &renewed.text)
            .map_err(|error| Failure::new(format!("{shown} cannot be written: {error}")))?;
    }
    let (added, removed, changed) = (changes.added.len(), changes.removed.len(), changes.changed.len());
    let tools = renewed.tools;
    out::line(&format!("{shown}: {tools} tools; {added} added, {removed} removed, {changed} changed"));
    out::text(&changes.to_string());
    if args.check {
        let again = format!("review the change: `outrigger policy pin {name}`");
        return Err(Failure::new(format!("{shown} would change")).help(again));
    }
    Ok(ExitCode::SUCCESS)
}

fn usage(message: String) -> Failure {
    Failure::new(message).exit_with(Exit::Usage)
}

fn find<'a>(settings: &'a Settings, name: &str) -> Result<&'a Upstream, Failure> {
    let known = || settings.upstreams.keys().map(UpstreamName::as_str);
    let found = settings.upstreams.iter().find(|(known, _)| known.as_str() == name);
    found.map(|(_, upstream)| upstream).ok_or_else(|| {
        let names: Vec<&str> = known().collect();
        let help = match nearest(name, names.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("the upstreams of the config are {}", names.join(", ")),
        };
        usage(format!("the config has no upstream {name:?}")).help(help)
    })
}

/// What an MCP server lists.
async fn listed(args: &Args, upstream: &Upstream) -> Result<Listed, Failure> {
    let path = path(args, upstream)?;
    let headers = headers(&args.header_env)?;
    let definitions = app::list_tools(upstream, &path, headers).await.map_err(|error| {
        let url = format!("{}{path}", upstream.url);
        let failure =
            Failure::new(format!("the tools of `{}` cannot be read at {url}: {error}", upstream.name));
        match error {
            ListToolsError::Tls(_) => failure.code(Code::BadCaFile),
            ListToolsError::Tools(_) | ListToolsError::Url(_) => failure
                .help("`--path` says where the server answers, `--header-env` what it wants to have proved"),
        }
    })?;
    Ok(Listed { upstream: upstream.name.clone(), origin: Origin::List, definitions })
}

/// Where an MCP server answers: the path that agents ask for behind the upstream's URL.
fn path(args: &Args, upstream: &Upstream) -> Result<String, Failure> {
    if let Some(path) = &args.path {
        return match path.as_str() {
            "" | "/" => Ok(String::new()),
            path if path.starts_with('/') => Ok(path.to_owned()),
            _ => Err(usage("`--path` begins with `/`".to_owned())),
        };
    }
    let mut said: Vec<&String> = upstream.env.values().collect();
    said.sort();
    said.dedup();
    match said.as_slice() {
        [] if upstream.url.base_path.is_empty() => Ok(MCP_PATH.to_owned()),
        [] => Ok(String::new()),
        [path] => Ok((*path).clone()),
        _ => Err(usage(format!("the `env` of `{}` has more than one path", upstream.name))
            .help("say which one is the MCP server's: `--path /mcp`")),
    }
}

/// Headers whose values the environment has: what stands on a command line, others can read.
fn headers(arguments: &[String]) -> Result<HeaderMap, Failure> {
    let mut headers = HeaderMap::new();
    for argument in arguments {
        let bad = |why: &str| usage(format!("`--header-env {argument}`: {why}"));
        let (name, variable) = argument.split_once('=').ok_or_else(|| bad("it is HEADER=VARIABLE"))?;
        let name: HeaderName = name.parse().map_err(|_| bad("this is no name of a header"))?;
        let value = ProcessEnv.var(variable).map_err(|_| bad("the variable is not set"))?;
        let mut value =
            HeaderValue::try_from(value).map_err(|_| bad("its value cannot stand in a header"))?;
        value.set_sensitive(true);
        headers.append(name, value);
    }
    Ok(headers)
}

/// What an OpenAPI file describes.
fn described(file: &Path, upstream: &Upstream) -> Result<Listed, Failure> {
    let shown = file.display();
    let text = read(file).map_err(|why| usage(format!("{shown} cannot be read: {why}")))?;
    let described = openapi::read(&text, &upstream.url.base_path)
        .map_err(|error| usage(format!("the tools in {shown} cannot be read: {error}")))?;
    for left_out in &described.left_out {
        out::note(&left_out.to_string());
    }
    let (upstream, definitions) = (upstream.name.clone(), described.definitions);
    Ok(Listed { upstream, origin: Origin::Openapi, definitions })
}

fn read(file: &Path) -> Result<String, String> {
    let mut text = String::new();
    let read = File::open(file).and_then(|file| file.take(OPENAPI_BYTES_MAX + 1).read_to_string(&mut text));
    match read {
        Ok(_) if text.len() as u64 > OPENAPI_BYTES_MAX => {
            Err(format!("it is longer than {} MiB", OPENAPI_BYTES_MAX >> 20))
        }
        Ok(_) => Ok(text),
        Err(error) => Err(error.to_string()),
    }
}

fn unpinned(name: &UpstreamName, error: RenewError) -> Failure {
    let faults = match error {
        RenewError::Old(report) => return Failure::Reports(vec![report]),
        RenewError::Tools(faults) => faults,
    };
    let more = faults.len().saturating_sub(FAULTS_SHOWN_MAX);
    let mut said: Vec<String> = faults.iter().take(FAULTS_SHOWN_MAX).map(Unpinnable::to_string).collect();
    if more > 0 {
        said.push(format!("and {more} more"));
    }
    Failure::new(format!("the tools of `{name}` cannot be pinned: {}", said.join("; ")))
        .help("nothing was written; the tools have to be repaired where they come from")
}
