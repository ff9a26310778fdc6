//! A scripted upstream on bare sockets: counts every request, keeps its bytes as they came, and answers
//! with what the test's script says, act by act: bytes, holds, resets.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::client::{find, headers};
use super::gate::Gate;
use super::{ports, wait};

/// One thing that an upstream does.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// Sends these bytes as they are.
    Send(Vec<u8>),
    /// Says that it came here, and waits until the test opens the gate.
    Hold(Gate),
    /// Waits this long: a stream's pace.
    Pause(Duration),
    /// Ends the connection with a reset.
    Reset,
    /// Ends the connection in good order.
    Close,
    /// Waits until the other side closes, and says so.
    Gone(Gate),
}

/// What an upstream does about one request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Script(pub(crate) Vec<Act>);

impl Script {
    /// An answer with a length.
    pub(crate) fn answer(status: u16, content_type: &str, body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        let mut bytes = head(status, &[("content-type", content_type)], Some(body.len()));
        bytes.extend_from_slice(body);
        Self(vec![Act::Send(bytes)])
    }

    pub(crate) fn json(body: impl AsRef<[u8]>) -> Self {
        Self::answer(200, "application/json", body)
    }

    pub(crate) fn text(body: impl AsRef<[u8]>) -> Self {
        Self::answer(200, "text/plain", body)
    }

    pub(crate) fn status(status: u16) -> Self {
        Self::answer(status, "application/json", format!(r#"{{"error":{{"message":"status {status}"}}}}"#))
    }

    /// Exactly these bytes.
    pub(crate) fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self(vec![Act::Send(bytes.into())])
    }

    /// The head of an event stream; chunks and their end follow.
    pub(crate) fn stream() -> Self {
        Self(vec![Act::Send(head(
            200,
            &[("content-type", "text/event-stream"), ("transfer-encoding", "chunked")],
            None,
        ))])
    }

    /// A whole event stream, an event per chunk.
    pub(crate) fn events<T: AsRef<[u8]>>(events: &[T]) -> Self {
        Self::stream().chunks(events).end()
    }

    pub(crate) fn chunks<T: AsRef<[u8]>>(self, parts: &[T]) -> Self {
        parts.iter().fold(self, |script, part| script.chunk(part))
    }

    pub(crate) fn chunk(self, part: impl AsRef<[u8]>) -> Self {
        let part = part.as_ref();
        let mut bytes = format!("{:x}\r\n", part.len()).into_bytes();
        bytes.extend_from_slice(part);
        bytes.extend_from_slice(b"\r\n");
        self.then(Act::Send(bytes))
    }

    pub(crate) fn end(self) -> Self {
        self.then(Act::Send(b"0\r\n\r\n".to_vec()))
    }

    pub(crate) fn then(mut self, act: Act) -> Self {
        self.0.push(act);
        self
    }

    pub(crate) fn hold(self, gate: &Gate) -> Self {
        self.then(Act::Hold(gate.clone()))
    }

    /// The same, begun only when the gate opens.
    pub(crate) fn held(mut self, gate: &Gate) -> Self {
        self.0.insert(0, Act::Hold(gate.clone()));
        self
    }

    /// The same with a hold after the first `len` bytes of what is sent.
    pub(crate) fn held_after(self, len: usize, gate: &Gate) -> Self {
        let mut left = Some(len);
        let mut acts = Vec::new();
        for act in self.0 {
            match (act, left) {
                (Act::Send(bytes), Some(rest)) if bytes.len() >= rest => {
                    acts.push(Act::Send(bytes[..rest].to_vec()));
                    acts.push(Act::Hold(gate.clone()));
                    acts.push(Act::Send(bytes[rest..].to_vec()));
                    left = None;
                }
                (Act::Send(bytes), Some(rest)) => {
                    left = Some(rest - bytes.len());
                    acts.push(Act::Send(bytes));
                }
                (act, _) => acts.push(act),
            }
        }
        Self(acts)
    }

    /// Number of bytes it sends.
    pub(crate) fn len(&self) -> usize {
        self.0.iter().map(|act| if let Act::Send(bytes) = act { bytes.len() } else { 0 }).sum()
    }
}

/// The head of an answer.
pub(crate) fn head(status: u16, headers: &[(&str, &str)], len: Option<usize>) -> Vec<u8> {
    let mut text = format!("HTTP/1.1 {status} Scripted\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if let Some(len) = len {
        text.push_str(&format!("content-length: {len}\r\n"));
    }
    text.push_str("\r\n");
    text.into_bytes()
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Path and query, as they came.
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    /// Without its framing.
    pub(crate) body: Vec<u8>,
    /// The how-many-th request with this method and target, from 1.
    pub(crate) nth: usize,
    /// The how-many-th request, from 1.
    pub(crate) count: usize,
    /// The connection it came by.
    pub(crate) connection: usize,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| std::str::from_utf8(value).unwrap())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

type Handler = dyn Fn(&Request) -> Script + Send + Sync;

struct Shared {
    handler: Mutex<Arc<Handler>>,
    log: Mutex<Vec<Request>>,
    live: Mutex<HashMap<usize, TcpStream>>,
    connections: AtomicUsize,
    stopped: AtomicBool,
}

/// A running upstream. Dropped, it stops listening.
pub(crate) struct Upstream {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<std::thread::JoinHandle<()>>,
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Upstream({})", self.address)
    }
}

impl Upstream {
    pub(crate) fn start(handler: impl Fn(&Request) -> Script + Send + Sync + 'static) -> Self {
        // Somebody else may take a port between the look and the call.
        let listener = (0..100).find_map(|_| TcpListener::bind(ports::free()).ok());
        Self::on(listener.expect("a free port"), handler)
    }

    /// An upstream on a socket that listens already.
    pub(crate) fn on(
        listener: TcpListener,
        handler: impl Fn(&Request) -> Script + Send + Sync + 'static,
    ) -> Self {
        let shared = Arc::new(Shared {
            handler: Mutex::new(Arc::new(handler)),
            log: Mutex::default(),
            live: Mutex::default(),
            connections: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
        });
        let address = listener.local_addr().unwrap();
        let accepting = Some(accept(listener, Arc::clone(&shared)));
        Self { address, shared, accepting }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Answers differently from now on.
    pub(crate) fn answers(&self, handler: impl Fn(&Request) -> Script + Send + Sync + 'static) {
        *self.shared.handler.lock().unwrap() = Arc::new(handler);
    }

    /// Every whole request so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.shared.log.lock().unwrap().clone()
    }

    pub(crate) fn count(&self) -> usize {
        self.shared.log.lock().unwrap().len()
    }

    /// Requests whose path and query hold `part`.
    pub(crate) fn count_of(&self, part: &str) -> usize {
        self.shared.log.lock().unwrap().iter().filter(|request| request.target.contains(part)).count()
    }

    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Waits until `count` requests have come.
    #[track_caller]
    pub(crate) fn wait_for(&self, count: usize) {
        wait::until(&format!("{count} requests upstream"), || self.count() >= count);
    }

    /// Stops listening and closes every connection: the next connection is refused.
    pub(crate) fn stop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        if let Some(accepting) = self.accepting.take() {
            drop(TcpStream::connect(self.address));
            accepting.join().unwrap();
        }
        for (_, stream) in self.shared.live.lock().unwrap().drain() {
            drop(stream.shutdown(Shutdown::Both));
        }
    }

    /// Closes the idle connections and goes on listening, as a server with a short keep-alive does.
    pub(crate) fn close_connections(&self) {
        for (_, stream) in self.shared.live.lock().unwrap().drain() {
            drop(stream.shutdown(Shutdown::Both));
        }
    }

    /// Listens again at the same address.
    pub(crate) fn start_again(&mut self) {
        self.shared.stopped.store(false, Ordering::SeqCst);
        let address = self.address;
        let listener = wait::until_some("the port is free again", || TcpListener::bind(address).ok());
        self.accepting = Some(accept(listener, Arc::clone(&self.shared)));
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.stop();
        }
    }
}

fn accept(listener: TcpListener, shared: Arc<Shared>) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            if shared.stopped.load(Ordering::SeqCst) {
                return;
            }
            let Ok(stream) = stream else { continue };
            let shared = Arc::clone(&shared);
            let connection = shared.connections.fetch_add(1, Ordering::SeqCst) + 1;
            std::thread::spawn(move || serve(&shared, stream, connection));
        }
    })
}

fn serve(shared: &Shared, mut stream: TcpStream, connection: usize) {
    let ready = stream.set_nodelay(true).and_then(|()| stream.try_clone());
    let Ok(clone) = ready else { return };
    shared.live.lock().unwrap().insert(connection, clone);
    let mut unread = Vec::new();
    while let Some(mut request) = read_request(&mut stream, &mut unread) {
        request.connection = connection;
        let handler = Arc::clone(&shared.handler.lock().unwrap());
        {
            let mut log = shared.log.lock().unwrap();
            let same = |known: &&Request| known.method == request.method && known.target == request.target;
            request.nth = log.iter().filter(same).count() + 1;
            request.count = log.len() + 1;
            log.push(request.clone());
        }
        let script = handler(&request);
        match play(&mut stream, script) {
            Played::Next => {}
            Played::Over => break,
            Played::Reset => {
                shared.live.lock().unwrap().remove(&connection);
                reset(stream);
                return;
            }
        }
    }
    if let Some(clone) = shared.live.lock().unwrap().remove(&connection) {
        drop(clone.shutdown(Shutdown::Both));
    }
}

enum Played {
    Next,
    Over,
    Reset,
}

fn play(stream: &mut TcpStream, script: Script) -> Played {
    let mut acts = script.0.into_iter();
    while let Some(act) = acts.next() {
        match act {
            Act::Send(bytes) => {
                if stream.write_all(&bytes).is_err() {
                    // The other side may be gone before everything is sent.
                    if let Some(Act::Gone(gate)) = acts.find(|act| matches!(act, Act::Gone(_))) {
                        gate.mark();
                    }
                    return Played::Over;
                }
            }
            Act::Hold(gate) => gate.pass(),
            Act::Pause(pause) => std::thread::sleep(pause),
            Act::Reset => return Played::Reset,
            Act::Close => return Played::Over,
            Act::Gone(gate) => {
                let mut bytes = [0; 1024];
                while stream.read(&mut bytes).is_ok_and(|len| len > 0) {}
                gate.mark();
                return Played::Over;
            }
        }
    }
    Played::Next
}

/// Closes with a reset instead of an orderly end.
pub(crate) fn reset(stream: TcpStream) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    let _entered = runtime.enter();
    stream.set_nonblocking(true).unwrap();
    if let Ok(stream) = tokio::net::TcpStream::from_std(stream) {
        drop(stream.set_zero_linger());
    }
}

fn read_request(stream: &mut TcpStream, unread: &mut Vec<u8>) -> Option<Request> {
    let end = fill_until(stream, unread, |bytes| find(bytes, b"\r\n\r\n"))?;
    let head: Vec<u8> = unread.drain(..end + 4).collect();
    let mut lines = head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let first = String::from_utf8_lossy(lines.next()?).into_owned();
    let mut words = first.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let headers = headers(lines);
    let value = |wanted: &str| {
        let found = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted));
        found.map(|(_, value)| String::from_utf8_lossy(value).to_ascii_lowercase())
    };
    let body = if value("transfer-encoding").is_some_and(|value| value.contains("chunked")) {
        read_chunked(stream, unread)?
    } else {
        let len = value("content-length").map_or(0, |text| text.parse().unwrap());
        fill_until(stream, unread, |bytes| (bytes.len() >= len).then_some(0))?;
        unread.drain(..len).collect()
    };
    Some(Request { method, target, headers, body, nth: 0, count: 0, connection: 0 })
}

fn read_chunked(stream: &mut TcpStream, unread: &mut Vec<u8>) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = fill_until(stream, unread, |bytes| find(bytes, b"\r\n"))?;
        let text = String::from_utf8_lossy(&unread[..line]).into_owned();
        let len = usize::from_str_radix(text.split(';').next()?.trim(), 16).ok()?;
        if len == 0 {
            let end = fill_until(stream, unread, |bytes| find(&bytes[line..], b"\r\n\r\n"))?;
            unread.drain(..line + end + 4);
            return Some(body);
        }
        let whole = line + 2 + len + 2;
        fill_until(stream, unread, |bytes| (bytes.len() >= whole).then_some(0))?;
        body.extend_from_slice(&unread[line + 2..whole - 2]);
        unread.drain(..whole);
    }
}

fn fill_until(
    stream: &mut TcpStream,
    unread: &mut Vec<u8>,
    found: impl Fn(&[u8]) -> Option<usize>,
) -> Option<usize> {
    let mut bytes = [0; 64 * 1024];
    loop {
        if let Some(at) = found(unread) {
            return Some(at);
        }
        match stream.read(&mut bytes) {
            Ok(len) if len > 0 => unread.extend_from_slice(&bytes[..len]),
            Ok(_) | Err(_) => return None,
        }
    }
}

/// A place that listens and never accepts: its queue is full, so that a connection to it hangs.
#[derive(Debug)]
pub(crate) struct Deaf {
    listener: TcpListener,
    _queue: Vec<TcpStream>,
}

impl Deaf {
    pub(crate) fn start() -> Self {
        let address = ports::free();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        let _entered = runtime.enter();
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(address).unwrap();
        let listener = socket.listen(1).unwrap().into_std().unwrap();
        let mut queue = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(50)) {
            queue.push(stream);
            assert!(queue.len() < 64, "the queue of a listener does not fill up");
        }
        Self { listener, _queue: queue }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.listener.local_addr().unwrap())
    }

    /// Begins to accept.
    pub(crate) fn wake(self, handler: impl Fn(&Request) -> Script + Send + Sync + 'static) -> Upstream {
        self.listener.set_nonblocking(false).unwrap();
        Upstream::on(self.listener, handler)
    }
}
