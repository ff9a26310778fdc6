//! Asking an MCP server for its tools, page by page, in the protocol that it speaks: what is posted next, and what the
//! answers say. First as 2026-07-28 has it; a server that does not know that is asked in a session (2025-11-25 and
//! earlier). Pure: answers in, requests out.

use std::collections::BTreeSet;

use bytes::Bytes;
use serde_json::json;

use crate::json::{Kind, Tape, Value};

/// The protocol without sessions.
const STATELESS: &str = "2026-07-28";
/// The newest protocol with sessions.
const SESSIONS: &str = "2025-11-25";
/// JSON-RPC codes of MCP 2026-07-28: a server that answers one knows that protocol.
const STATELESS_CODES: std::ops::RangeInclusive<i64> = -32099..=-32020;
/// Of them the one that says that another version is spoken.
const UNSUPPORTED_VERSION: i64 = -32022;
const METHOD_NOT_FOUND: i64 = -32601;
/// Most pages of one list.
pub const PAGES_MAX: usize = 200;
/// Longest list, in bytes of all its pages.
pub const LIST_BYTES_MAX: usize = 16 << 20;
/// Characters of the server's own words that are kept.
const WORDS_MAX: usize = 200;

/// A message to post.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Post {
    pub body: Bytes,
    /// The id of the request, as it is spelled; `None`: a notification, to which no message answers.
    pub id: Option<String>,
    /// Beside those of every post.
    pub headers: Vec<(&'static str, String)>,
}

/// What came back of a post.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Posted {
    /// HTTP status.
    pub status: u16,
    /// The session that the answer opened.
    pub session: Option<String>,
    /// The JSON-RPC response; what the answer's body is where it holds none.
    pub message: Bytes,
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// The definitions of all tools, as JSON.
    Listed(Vec<String>),
    Post(Post),
}

/// A server whose tools cannot be listed. Its own words are shown without characters that a terminal acts on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    #[error("the server refuses `{method}`: {words}")]
    Refused { method: &'static str, words: String },
    #[error("the server answers `{method}` with what is no result: {words}")]
    NoResult { method: &'static str, words: String },
    #[error("the server answers `tools/list` without a list of tools")]
    NoList,
    #[error("the server speaks {spoken} and none of the protocols that are known here")]
    Version { spoken: String },
    #[error("the list has more than {PAGES_MAX} pages")]
    Pages,
    #[error("the list is longer than {} MiB", LIST_BYTES_MAX >> 20)]
    TooLong,
    #[error("the list leads back to a page that was read already")]
    Circle,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// Asked without a session.
    Stateless,
    /// A session is asked for.
    Initialize,
    /// The session was told that it is open.
    Initialized,
    /// Asked in a session.
    Session,
}

/// One reading of a server's tools.
#[derive(Debug)]
pub struct Listing {
    state: State,
    /// What the server has said of the session: its id, and the protocol.
    session: Option<String>,
    version: String,
    last_id: u64,
    cursors: BTreeSet<String>,
    bytes: usize,
    tools: Vec<String>,
}

impl Listing {
    /// A reading, and what to post first.
    pub fn begin() -> (Self, Post) {
        let mut listing = Self {
            state: State::Stateless,
            session: None,
            version: STATELESS.to_owned(),
            last_id: 0,
            cursors: BTreeSet::new(),
            bytes: 0,
            tools: Vec::new(),
        };
        let post = listing.page(None);
        (listing, post)
    }

    /// The headers under which the session is ended, if one was opened.
    pub fn session(&self) -> Option<Vec<(&'static str, String)>> {
        self.session.as_ref().map(|_| self.headers())
    }

    /// Takes what came back of the last post.
    ///
    /// # Errors
    /// [`ListError`].
    pub fn posted(&mut self, posted: &Posted) -> Result<Next, ListError> {
        match self.state {
            State::Stateless => match self.list(posted) {
                Err(_) if self.cursors.is_empty() && speaks_sessions(posted)? => {
                    Ok(Next::Post(self.initialize()))
                }
                done => done,
            },
            State::Initialize => self.opened(posted).map(Next::Post),
            State::Initialized if is_success(posted.status) => {
                self.state = State::Session;
                Ok(Next::Post(self.page(None)))
            }
            State::Initialized => Err(refused("notifications/initialized", posted)),
            State::Session => self.list(posted),
        }
    }

    fn headers(&self) -> Vec<(&'static str, String)> {
        let version = ("mcp-protocol-version", self.version.clone());
        let session = self.session.clone().map(|session| ("mcp-session-id", session));
        std::iter::once(version).chain(session).collect()
    }

    fn request(
        &mut self,
        method: &str,
        params: &serde_json::Value,
        headers: Vec<(&'static str, String)>,
    ) -> Post {
        self.last_id += 1;
        let id = self.last_id;
        let body = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        Post { body: body.to_string().into(), id: Some(id.to_string()), headers }
    }

    fn page(&mut self, cursor: Option<&str>) -> Post {
        let mut params = json!({});
        let mut headers = self.headers();
        if let serde_json::Value::Object(params) = &mut params {
            if let Some(cursor) = cursor {
                params.insert("cursor".to_owned(), cursor.into());
            }
            if self.state == State::Stateless {
                params.insert("_meta".to_owned(), meta());
                headers.push(("mcp-method", "tools/list".to_owned()));
            }
        }
        self.request("tools/list", &params, headers)
    }

    fn initialize(&mut self) -> Post {
        self.state = State::Initialize;
        let params = json!({ "protocolVersion": SESSIONS, "capabilities": {}, "clientInfo": client() });
        self.request("initialize", &params, Vec::new())
    }

    fn opened(&mut self, posted: &Posted) -> Result<Post, ListError> {
        let method = "initialize";
        let tape = Tape::parse(&posted.message).map_err(|_| refused(method, posted))?;
        let result = result(tape.root(&posted.message), method, posted)?;
        let version = result.get("protocolVersion").and_then(Value::string).unwrap_or_default();
        let is_version = !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_version {
            return Err(ListError::NoResult { method, words: words(&posted.message) });
        }
        self.version = version.into_owned();
        self.session.clone_from(&posted.session);
        self.state = State::Initialized;
        let body = Bytes::from_static(br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
        Ok(Post { body, id: None, headers: self.headers() })
    }

    fn list(&mut self, posted: &Posted) -> Result<Next, ListError> {
        self.bytes += posted.message.len();
        if self.bytes > LIST_BYTES_MAX {
            return Err(ListError::TooLong);
        }
        let method = "tools/list";
        let tape = Tape::parse(&posted.message).map_err(|_| refused(method, posted))?;
        let result = result(tape.root(&posted.message), method, posted)?;
        let tools = result.get("tools").filter(|tools| tools.kind() == Kind::Array);
        self.tools.extend(tools.ok_or(ListError::NoList)?.elements().map(|tool| tool.raw_str().to_owned()));
        let cursor = result.get("nextCursor").and_then(Value::string).filter(|cursor| !cursor.is_empty());
        let Some(cursor) = cursor else { return Ok(Next::Listed(std::mem::take(&mut self.tools))) };
        if !self.cursors.insert(cursor.clone().into_owned()) {
            return Err(ListError::Circle);
        }
        if self.cursors.len() >= PAGES_MAX {
            return Err(ListError::Pages);
        }
        Ok(Next::Post(self.page(Some(&cursor))))
    }
}

fn client() -> serde_json::Value {
    json!({ "name": "outrigger", "version": env!("CARGO_PKG_VERSION") })
}

fn meta() -> serde_json::Value {
    json!({
        "io.modelcontextprotocol/protocolVersion": STATELESS,
        "io.modelcontextprotocol/clientInfo": client(),
        "io.modelcontextprotocol/clientCapabilities": {},
    })
}

fn is_success(status: u16) -> bool {
    (200..300).contains(&status)
}

/// Whether a server that did not list its tools without a session is to be asked in one: every server but those whose
/// answer shows that they know better (MCP 2026-07-28, Streamable HTTP, "Backward Compatibility").
fn speaks_sessions(posted: &Posted) -> Result<bool, ListError> {
    if matches!(posted.status, 401 | 403 | 407) {
        return Ok(false);
    }
    let Ok(tape) = Tape::parse(&posted.message) else { return Ok(true) };
    let root = tape.root(&posted.message);
    let Some(error) = root.given("error") else { return Ok(root.get("result").is_none()) };
    let code = error.get("code").and_then(|code| code.number()?.parse::<i64>().ok()).unwrap_or(0);
    if code == UNSUPPORTED_VERSION {
        let supported = error.pointer("/data/supported").into_iter().flat_map(Value::elements);
        let supported: Vec<_> = supported.filter_map(Value::string).collect();
        // Versions are dates: they sort as texts.
        if supported.is_empty() || supported.iter().any(|version| version.as_ref() <= SESSIONS) {
            return Ok(true);
        }
        return Err(ListError::Version { spoken: clean(&supported.join(", ")) });
    }
    let is_known = STATELESS_CODES.contains(&code) || (posted.status == 404 && code == METHOD_NOT_FOUND);
    Ok(!is_known)
}

fn result<'a>(message: Value<'a>, method: &'static str, posted: &Posted) -> Result<Value<'a>, ListError> {
    if let Some(error) = message.given("error") {
        let said = error.get("message").and_then(Value::string).unwrap_or_default();
        let code = error.get("code").map(Value::raw_str).unwrap_or_default();
        return Err(ListError::Refused { method, words: clean(&format!("{said} ({code})")) });
    }
    let result = message.get("result").filter(|result| result.kind() == Kind::Object);
    result.filter(|_| is_success(posted.status)).ok_or_else(|| refused(method, posted))
}

/// An answer that is no JSON-RPC response.
fn refused(method: &'static str, posted: &Posted) -> ListError {
    if is_success(posted.status) {
        return ListError::NoResult { method, words: words(&posted.message) };
    }
    ListError::Refused { method, words: format!("status {}", posted.status) }
}

fn words(body: &[u8]) -> String {
    if body.is_empty() { "nothing".to_owned() } else { clean(&String::from_utf8_lossy(body)) }
}

fn clean(text: &str) -> String {
    let short: String = text.chars().take(WORDS_MAX).collect();
    let more = if short.len() < text.len() { "..." } else { "" };
    format!("{}{more}", short.escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOOL: &str = r#"{"name":"charge","x":1.0}"#;

    fn posted(status: u16, message: &str) -> Posted {
        Posted { status, session: None, message: Bytes::copy_from_slice(message.as_bytes()) }
    }

    fn page(more: &str) -> Posted {
        posted(200, &format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{"tools":[{TOOL}]{more}}}}}"#))
    }

    fn sent(next: Next) -> Post {
        match next {
            Next::Post(post) => post,
            Next::Listed(tools) => panic!("{tools:?}"),
        }
    }

    fn header<'a>(post: &'a Post, name: &str) -> Option<&'a str> {
        post.headers.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    fn body(post: &Post) -> serde_json::Value {
        serde_json::from_slice(&post.body).unwrap()
    }

    #[track_caller]
    fn fails(first: &Posted, expected: &str) {
        assert_eq!(Listing::begin().0.posted(first).unwrap_err().to_string(), expected);
    }

    #[test]
    fn a_stateless_server_is_asked_page_by_page_and_gives_its_tools_as_they_are_spelled() {
        let (mut listing, first) = Listing::begin();
        assert_eq!(header(&first, "mcp-protocol-version"), Some("2026-07-28"));
        assert_eq!(header(&first, "mcp-method"), Some("tools/list"));
        let meta = body(&first)["params"]["_meta"].clone();
        assert_eq!(meta["io.modelcontextprotocol/protocolVersion"], "2026-07-28");
        assert_eq!(body(&first)["params"].get("cursor"), None);
        let second = sent(listing.posted(&page(r#","nextCursor":"p2""#)).unwrap());
        assert_eq!(body(&second)["params"]["cursor"], "p2");
        assert_eq!(second.id.as_deref(), Some("2"));
        let end = listing.posted(&page(r#","nextCursor":null"#)).unwrap();
        assert_eq!(end, Next::Listed(vec![TOOL.to_owned(), TOOL.to_owned()]));
        assert_eq!(listing.session(), None);
    }

    #[test]
    fn any_other_answer_leads_to_a_session_as_the_server_opens_it() {
        for (status, message) in [
            (400, ""),
            (400, r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"no session"}}"#),
            (404, "not here"),
            (200, r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"not initialized"}}"#),
            (400, r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32022,"data":{"supported":["2025-06-18"]}}}"#),
            (500, "<html>"),
        ] {
            let (mut listing, _) = Listing::begin();
            let initialize = sent(listing.posted(&posted(status, message)).unwrap());
            assert_eq!(body(&initialize)["method"], "initialize", "{status} {message}");
            let opened = r#"{"jsonrpc":"2.0","id":2,"result":{"protocolVersion":"2025-06-18"}}"#;
            let opened = Posted { session: Some("s-1".to_owned()), ..posted(200, opened) };
            let initialized = sent(listing.posted(&opened).unwrap());
            assert_eq!(initialized.id, None);
            let list = sent(listing.posted(&posted(202, "")).unwrap());
            for post in [&initialized, &list] {
                assert_eq!(header(post, "mcp-session-id"), Some("s-1"));
                assert_eq!(header(post, "mcp-protocol-version"), Some("2025-06-18"));
                assert_eq!(header(post, "mcp-method"), None);
            }
            assert_eq!(listing.posted(&page("")).unwrap(), Next::Listed(vec![TOOL.to_owned()]));
            assert!(listing.session().is_some());
        }
    }

    #[test]
    fn a_server_that_knows_the_protocol_and_refuses_is_not_asked_in_another() {
        fails(
            &posted(400, r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32021,"message":"needs x"}}"#),
            "the server refuses `tools/list`: needs x (-32021)",
        );
        fails(
            &posted(404, r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"no\u001b[2J"}}"#),
            "the server refuses `tools/list`: no\\u{1b}[2J (-32601)",
        );
        fails(&posted(401, ""), "the server refuses `tools/list`: status 401");
        fails(
            &posted(400, r#"{"error":{"code":-32022,"data":{"supported":["2027-01-01"]}}}"#),
            "the server speaks 2027-01-01 and none of the protocols that are known here",
        );
    }

    #[test]
    fn what_is_no_list_is_said() {
        let no_list = "the server answers `tools/list` without a list of tools";
        fails(&posted(200, r#"{"jsonrpc":"2.0","id":1,"result":{}}"#), no_list);
        fails(&posted(200, r#"{"jsonrpc":"2.0","id":1,"result":{"tools":{}}}"#), no_list);
        let (mut listing, _) = Listing::begin();
        listing.posted(&posted(200, "<html>\n")).unwrap();
        let error = listing.posted(&posted(200, "<html>\n")).unwrap_err().to_string();
        assert_eq!(error, "the server answers `initialize` with what is no result: <html>\\n");
        let (mut listing, _) = Listing::begin();
        listing.posted(&posted(404, "")).unwrap();
        let error = listing.posted(&posted(404, "")).unwrap_err().to_string();
        assert_eq!(error, "the server refuses `initialize`: status 404");
    }

    #[test]
    fn a_list_without_end_ends() {
        let (mut listing, _) = Listing::begin();
        listing.posted(&page(r#","nextCursor":"a""#)).unwrap();
        assert_eq!(listing.posted(&page(r#","nextCursor":"a""#)), Err(ListError::Circle));
        let (mut listing, _) = Listing::begin();
        let pages = (1..).find_map(|n| {
            let answer = listing.posted(&page(&format!(r#","nextCursor":"{n}""#)));
            answer.err().map(|error| (n, error))
        });
        assert_eq!(pages, Some((PAGES_MAX, ListError::Pages)));
        let (mut listing, _) = Listing::begin();
        let long = page(&format!(r#","x":"{}","nextCursor":"a""#, "x".repeat(LIST_BYTES_MAX / 2)));
        listing.posted(&long).unwrap();
        assert_eq!(listing.posted(&long), Err(ListError::TooLong));
    }
}
