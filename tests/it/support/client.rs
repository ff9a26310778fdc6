//! An agent's side of HTTP/1.1, on bare sockets: sends exactly the bytes it is told, reads as far as it is
//! told, and tells a clean end of an answer from a broken one.

use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

/// Silence after which a read fails: longer than any wait of a test.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
}

impl Ask {
    pub(crate) fn new(method: &str, path: impl Into<String>) -> Self {
        Self { method: method.to_owned(), path: path.into(), headers: Vec::new(), body: Vec::new() }
    }

    pub(crate) fn get(path: impl Into<String>) -> Self {
        Self::new("GET", path)
    }

    /// A JSON request.
    pub(crate) fn post(path: impl Into<String>, body: impl Into<Vec<u8>>) -> Self {
        let ask = Self::new("POST", path).header("content-type", "application/json");
        Self { body: body.into(), ..ask }
    }

    pub(crate) fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.to_owned(), value.as_ref().to_vec()));
        self
    }

    /// Head and body as they are sent; a length is given where there is a body or a method that has one.
    pub(crate) fn to_bytes(&self, host: SocketAddr) -> Vec<u8> {
        let mut bytes = format!("{} {} HTTP/1.1\r\nhost: {host}\r\n", self.method, self.path).into_bytes();
        for (name, value) in &self.headers {
            bytes.extend_from_slice(name.as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value);
            bytes.extend_from_slice(b"\r\n");
        }
        let framed = self.headers.iter().any(|(name, _)| {
            name.eq_ignore_ascii_case("content-length") || name.eq_ignore_ascii_case("transfer-encoding")
        });
        if !framed && (!self.body.is_empty() || self.method == "POST" || self.method == "PUT") {
            bytes.extend_from_slice(format!("content-length: {}\r\n", self.body.len()).as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// A whole answer.
#[derive(Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.status)?;
        for (name, value) in &self.headers {
            writeln!(f, "{name}: {}", String::from_utf8_lossy(value))?;
        }
        let shown = &self.body[..self.body.len().min(2000)];
        write!(f, "\n{} bytes: {}", self.body.len(), String::from_utf8_lossy(shown))
    }
}

impl Answer {
    /// The header's value; `None` when it is not there.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| std::str::from_utf8(value).unwrap())
    }

    pub(crate) fn source(&self) -> &str {
        self.header("x-outrigger-source").unwrap_or("none")
    }

    pub(crate) fn step(&self) -> u64 {
        self.header("x-outrigger-step").and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    pub(crate) fn attempt(&self) -> &str {
        self.header("x-outrigger-attempt").unwrap_or("none")
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Status and source, as most tests compare them.
    #[track_caller]
    pub(crate) fn expect(self, status: u16, source: &str) -> Self {
        assert_eq!((self.status, self.source()), (status, source), "{self:?}");
        self
    }
}

/// An answer that did not come to a clean end.
#[derive(Clone, Debug)]
pub(crate) struct Broken {
    /// The head, if it came.
    pub(crate) status: Option<u16>,
    /// What came of the body.
    pub(crate) body: Vec<u8>,
    pub(crate) why: String,
}

/// How the body of an answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Chunked,
    Closed,
    Length(usize),
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    address: SocketAddr,
    unread: Vec<u8>,
}

/// An answer while it is being read.
#[derive(Debug)]
pub(crate) struct Reading<'a> {
    client: &'a mut Client,
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    framing: Framing,
    pub(crate) body: Vec<u8>,
    ended: bool,
}

impl Client {
    #[track_caller]
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address).unwrap_or_else(|error| panic!("cannot connect to {address}: {error}"))
    }

    /// A connection to a Unix socket.
    pub(crate) fn connect_unix(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(READ_TIMEOUT)).unwrap();
        stream.set_write_timeout(Some(READ_TIMEOUT)).unwrap();
        // What this client does with a stream is the same for both kinds of socket.
        let stream = TcpStream::from(OwnedFd::from(stream));
        Self { stream, address: SocketAddr::from(([127, 0, 0, 1], 0)), unread: Vec::new() }
    }

    pub(crate) fn try_connect(address: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, READ_TIMEOUT)?;
        stream.set_read_timeout(Some(READ_TIMEOUT))?;
        stream.set_write_timeout(Some(READ_TIMEOUT))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, address, unread: Vec::new() })
    }

    /// Sends a request. A peer that answered before it read everything is no error here.
    pub(crate) fn send(&mut self, ask: &Ask) {
        self.write(&ask.to_bytes(self.address));
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        match self.stream.write_all(bytes) {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {}
            Err(error) => panic!("cannot write: {error}"),
        }
    }

    /// Sends and reads to the end.
    pub(crate) fn call(&mut self, ask: &Ask) -> Result<Answer, Broken> {
        self.send(ask);
        self.read(&ask.method)
    }

    /// Reads an answer to its end.
    pub(crate) fn read(&mut self, method: &str) -> Result<Answer, Broken> {
        self.head(method)?.whole()
    }

    /// Reads the head of an answer (and what informs of one that is still to come).
    pub(crate) fn head(&mut self, method: &str) -> Result<Reading<'_>, Broken> {
        loop {
            let end = self.fill_until(|bytes| find(bytes, b"\r\n\r\n")).map_err(|why| Broken {
                status: None,
                body: std::mem::take(&mut self.unread),
                why,
            })?;
            let head: Vec<u8> = self.unread.drain(..end + 4).collect();
            let (status, headers) = parse_head(&head);
            if status != 100 {
                let framing = framing(method, status, &headers);
                let ended = framing == Framing::Length(0);
                return Ok(Reading { client: self, status, headers, framing, body: Vec::new(), ended });
            }
        }
    }

    /// Whether bytes of an answer are here already.
    pub(crate) fn has_answer(&self) -> bool {
        self.stream.set_nonblocking(true).unwrap();
        let has = self.stream.peek(&mut [0]).is_ok_and(|len| len > 0);
        self.stream.set_nonblocking(false).unwrap();
        has
    }

    /// Closes the side that sends.
    pub(crate) fn finish(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// Whether the peer has closed, waiting up to `wait` for it.
    pub(crate) fn is_closed_within(&mut self, wait: Duration) -> bool {
        self.stream.set_read_timeout(Some(wait)).unwrap();
        let mut bytes = [0; 4096];
        let closed = loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => break true,
                Ok(len) => self.unread.extend_from_slice(&bytes[..len]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    break false;
                }
                Err(_) => break true,
            }
        };
        self.stream.set_read_timeout(Some(READ_TIMEOUT)).unwrap();
        closed
    }

    fn fill_until(&mut self, found: impl Fn(&[u8]) -> Option<usize>) -> Result<usize, String> {
        loop {
            if let Some(at) = found(&self.unread) {
                return Ok(at);
            }
            self.fill()?;
        }
    }

    fn fill(&mut self) -> Result<(), String> {
        let mut bytes = [0; 64 * 1024];
        match self.stream.read(&mut bytes) {
            Ok(0) => Err("the connection was closed".to_owned()),
            Ok(len) => {
                self.unread.extend_from_slice(&bytes[..len]);
                Ok(())
            }
            Err(error) => Err(error.to_string()),
        }
    }
}

impl Reading<'_> {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| std::str::from_utf8(value).unwrap())
    }

    /// Reads until the body holds `text`.
    pub(crate) fn until(&mut self, text: &str) -> Result<(), Broken> {
        while find(&self.body, text.as_bytes()).is_none() {
            if !self.more()? {
                return Err(self.broken(format!("ended cleanly without {text:?}")));
            }
        }
        Ok(())
    }

    /// Reads to the end.
    pub(crate) fn whole(mut self) -> Result<Answer, Broken> {
        while self.more()? {}
        Ok(Answer { status: self.status, headers: self.headers, body: self.body })
    }

    /// Whether the end comes within `wait`, while nothing else must.
    pub(crate) fn ends_within(&mut self, wait: Duration) -> bool {
        self.client.stream.set_read_timeout(Some(wait)).unwrap();
        let mut ended = Ok(true);
        while let Ok(true) = ended {
            ended = self.more();
        }
        self.client.stream.set_read_timeout(Some(READ_TIMEOUT)).unwrap();
        matches!(ended, Ok(false))
    }

    /// Reads some more of the body; `false` at its clean end.
    fn more(&mut self) -> Result<bool, Broken> {
        if self.ended {
            return Ok(false);
        }
        match self.framing {
            Framing::Closed => self.more_until_closed(),
            Framing::Chunked => self.more_chunked(),
            Framing::Length(len) => self.more_of(len),
        }
    }

    fn more_until_closed(&mut self) -> Result<bool, Broken> {
        if self.client.unread.is_empty() {
            match self.client.fill() {
                Ok(()) => {}
                Err(why) if why == "the connection was closed" => {
                    self.ended = true;
                    return Ok(false);
                }
                Err(why) => return Err(self.broken(why)),
            }
        }
        self.body.append(&mut self.client.unread);
        Ok(true)
    }

    fn more_of(&mut self, len: usize) -> Result<bool, Broken> {
        if self.client.unread.is_empty() {
            self.client.fill().map_err(|why| self.broken(why))?;
        }
        let take = self.client.unread.len().min(len - self.body.len());
        self.body.extend(self.client.unread.drain(..take));
        self.ended = self.body.len() == len;
        Ok(true)
    }

    fn more_chunked(&mut self) -> Result<bool, Broken> {
        let line = self.client.fill_until(|bytes| find(bytes, b"\r\n")).map_err(|why| self.broken(why))?;
        let text = String::from_utf8_lossy(&self.client.unread[..line]).into_owned();
        let len = usize::from_str_radix(text.split(';').next().unwrap_or("").trim(), 16)
            .map_err(|_| self.broken(format!("not the length of a chunk: {text:?}")))?;
        if len == 0 {
            let end = self.client.fill_until(|bytes| find(&bytes[line..], b"\r\n\r\n"));
            let end = end.map_err(|why| self.broken(why))?;
            self.client.unread.drain(..line + end + 4);
            self.ended = true;
            return Ok(false);
        }
        let whole = line + 2 + len + 2;
        self.client
            .fill_until(|bytes| (bytes.len() >= whole).then_some(0))
            .map_err(|why| self.broken(why))?;
        self.body.extend_from_slice(&self.client.unread[line + 2..whole - 2]);
        self.client.unread.drain(..whole);
        Ok(true)
    }

    fn broken(&self, why: String) -> Broken {
        Broken { status: Some(self.status), body: self.body.clone(), why }
    }
}

/// One request on a connection of its own.
#[track_caller]
pub(crate) fn call(address: SocketAddr, ask: &Ask) -> Answer {
    try_call(address, ask).unwrap_or_else(|broken| panic!("{} {}: {broken:?}", ask.method, ask.path))
}

pub(crate) fn try_call(address: SocketAddr, ask: &Ask) -> Result<Answer, Broken> {
    match Client::try_connect(address) {
        Ok(mut client) => client.call(ask),
        Err(error) => Err(Broken { status: None, body: Vec::new(), why: error.to_string() }),
    }
}

pub(crate) fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, part)
}

fn parse_head(head: &[u8]) -> (u16, Vec<(String, Vec<u8>)>) {
    let mut lines = head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let first = String::from_utf8_lossy(lines.next().unwrap()).into_owned();
    let status = first.split(' ').nth(1).and_then(|text| text.parse().ok());
    (status.unwrap_or_else(|| panic!("no status line: {first:?}")), headers(lines))
}

pub(crate) fn headers<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Vec<(String, Vec<u8>)> {
    lines
        .filter_map(|line| {
            let colon = line.iter().position(|byte| *byte == b':')?;
            let (name, value) = line.split_at(colon);
            Some((String::from_utf8_lossy(name).into_owned(), value[1..].trim_ascii().to_vec()))
        })
        .collect()
}

fn framing(method: &str, status: u16, headers: &[(String, Vec<u8>)]) -> Framing {
    let value = |wanted: &str| {
        let found = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted));
        found.map(|(_, value)| String::from_utf8_lossy(value).to_ascii_lowercase())
    };
    if method == "HEAD" || matches!(status, 204 | 304) {
        return Framing::Length(0);
    }
    if value("transfer-encoding").is_some_and(|value| value.contains("chunked")) {
        return Framing::Chunked;
    }
    value("content-length").map_or(Framing::Closed, |len| Framing::Length(len.parse().unwrap()))
}
