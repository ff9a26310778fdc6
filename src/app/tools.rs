//! The tools that an upstream's server lists, asked for as the sidecar itself would ask.

use std::time::Duration;

use http::{HeaderMap, Uri};

use crate::config;
use crate::upstream::list::{self, Asked, ToolsError};
use crate::upstream::{Client, TlsError};

use super::build;

/// Longest time for one exchange with a server that is asked for its tools, whatever agents may wait for.
const EXCHANGE_MAX: Duration = Duration::from_secs(60);

/// Tools that could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ListToolsError {
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Tools(#[from] ToolsError),
    #[error("{0} is no URL")]
    Url(String),
}

/// The definitions of all tools of an MCP upstream, as JSON. `path` is what agents ask for behind its URL, and
/// `headers` what they have to prove.
///
/// # Errors
/// [`ListToolsError`].
pub async fn list_tools(
    settings: &config::Upstream,
    path: &str,
    headers: HeaderMap,
) -> Result<Vec<String>, ListToolsError> {
    let text = format!("{}{path}", settings.url);
    let uri: Uri = text.parse().map_err(|_| ListToolsError::Url(text))?;
    let client = Client::new(&build::client(settings))?;
    let asked = Asked { uri, headers, exchange: settings.idle_timeout.min(EXCHANGE_MAX) };
    Ok(list::tools(&client, &asked).await?)
}
