//! An upstream behind TLS that speaks HTTP/2, frame by frame, so that it can do what no well-behaved
//! server does; and HTTP/1.1 for those who want that.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::ports;

type Stream = StreamOwned<ServerConnection, TcpStream>;

/// What it does about one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Does {
    /// 200 with a small JSON body.
    Answers,
    /// RST_STREAM with REFUSED_STREAM: it has not looked at it.
    Refuses,
    /// GOAWAY that says no stream was processed, and the end of the connection.
    GoesAwayBefore,
    /// GOAWAY that says this one was processed, and the end of the connection.
    GoesAwayAfter,
    /// GOAWAY that rules no stream out, as an orderly shutdown begins (RFC 9113, section 6.8), and then the end
    /// of the connection all the same.
    GoesAwayGracefully,
    /// Half an answer, then RST_STREAM with INTERNAL_ERROR.
    BreaksOff,
}

#[derive(Debug)]
struct Shared {
    plan: Mutex<Vec<Does>>,
    requests: AtomicUsize,
    versions: Mutex<Vec<&'static str>>,
}

/// A running one.
#[derive(Debug)]
pub(crate) struct TlsUpstream {
    address: SocketAddr,
    certificate: String,
    shared: Arc<Shared>,
}

impl TlsUpstream {
    /// Does what the plan says, request by request, then answers. `protocols`: what ALPN offers.
    pub(crate) fn start(plan: &[Does], protocols: &[&str]) -> Self {
        let address = ports::free();
        let made = rcgen::generate_simple_self_signed([address.ip().to_string()]).unwrap();
        let certificate = made.cert.pem();
        let chain = vec![CertificateDer::from(made.cert.der().to_vec())];
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder =
            ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut config = builder.with_no_client_auth().with_single_cert(chain, key).unwrap();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let config = Arc::new(config);
        let mut plan = plan.to_vec();
        plan.reverse();
        let shared = Arc::new(Shared {
            plan: Mutex::new(plan),
            requests: AtomicUsize::new(0),
            versions: Mutex::default(),
        });
        let (listener, served) = (TcpListener::bind(address).unwrap(), Arc::clone(&shared));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                let (config, shared) = (Arc::clone(&config), Arc::clone(&served));
                std::thread::spawn(move || {
                    let connection = ServerConnection::new(config).unwrap();
                    // Whatever breaks here is what the test is about.
                    _ = serve(&shared, StreamOwned::new(connection, stream));
                });
            }
        });
        Self { address, certificate, shared }
    }

    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Writes its certificate to where `ca_file` may find it.
    pub(crate) fn write_certificate(&self, path: &Path) {
        std::fs::write(path, &self.certificate).unwrap();
    }

    pub(crate) fn count(&self) -> usize {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// The protocol of each request so far.
    pub(crate) fn versions(&self) -> Vec<&'static str> {
        self.shared.versions.lock().unwrap().clone()
    }
}

impl Shared {
    fn next(&self, version: &'static str) -> Does {
        self.requests.fetch_add(1, Ordering::SeqCst);
        self.versions.lock().unwrap().push(version);
        self.plan.lock().unwrap().pop().unwrap_or(Does::Answers)
    }
}

const BODY: &[u8] = br#"{"fine":true}"#;

fn serve(shared: &Shared, mut stream: Stream) -> std::io::Result<()> {
    stream.conn.complete_io(&mut stream.sock)?;
    if stream.conn.alpn_protocol() == Some(b"h2") { http_2(shared, stream) } else { http_1(shared, stream) }
}

fn http_1(shared: &Shared, mut stream: Stream) -> std::io::Result<()> {
    let mut read = Vec::new();
    let mut bytes = [0; 4096];
    loop {
        // Requests of these tests are small and come one by one.
        let len = stream.read(&mut bytes)?;
        if len == 0 {
            return Ok(());
        }
        read.extend_from_slice(&bytes[..len]);
        if read.ends_with(b"}") || read.ends_with(b"\r\n\r\n") {
            read.clear();
            shared.next("HTTP/1.1");
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", BODY.len());
            stream.write_all(head.as_bytes())?;
            stream.write_all(BODY)?;
        }
    }
}

/// Frame types and flags of RFC 9113, section 6.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const INTERNAL_ERROR: u32 = 2;
const REFUSED_STREAM: u32 = 7;
/// The highest stream there can be.
const STREAM_MAX: u32 = (1 << 31) - 1;
/// `:status: 200`, from HPACK's static table.
const STATUS_200: &[u8] = &[0x88];

fn http_2(shared: &Shared, mut stream: Stream) -> std::io::Result<()> {
    let mut preface = [0; 24];
    stream.read_exact(&mut preface)?;
    frame(&mut stream, SETTINGS, 0, 0, &[])?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head)?;
        let len = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut payload = vec![0; len];
        stream.read_exact(&mut payload)?;
        let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let goes_on = match (head[3], head[4]) {
            (SETTINGS, flags) if flags & ACK == 0 => frame(&mut stream, SETTINGS, ACK, 0, &[]).map(|()| true),
            (PING, flags) if flags & ACK == 0 => frame(&mut stream, PING, ACK, 0, &payload).map(|()| true),
            (DATA | HEADERS, flags) if flags & END_STREAM != 0 => {
                react(&mut stream, shared.next("HTTP/2"), id)
            }
            _ => Ok(true),
        };
        if !goes_on? {
            return Ok(());
        }
    }
}

/// Whether the connection goes on.
fn react(stream: &mut Stream, does: Does, id: u32) -> std::io::Result<bool> {
    match does {
        Does::Answers => {
            frame(stream, HEADERS, END_HEADERS, id, STATUS_200)?;
            frame(stream, DATA, END_STREAM, id, BODY)?;
        }
        Does::Refuses => frame(stream, RST_STREAM, 0, id, &REFUSED_STREAM.to_be_bytes())?,
        Does::GoesAwayBefore | Does::GoesAwayAfter | Does::GoesAwayGracefully => {
            let last = if does == Does::GoesAwayAfter { id } else { 0 };
            let last = if does == Does::GoesAwayGracefully { STREAM_MAX } else { last };
            frame(stream, GOAWAY, 0, 0, &[last.to_be_bytes(), [0; 4]].concat())?;
            stream.conn.send_close_notify();
            stream.flush()?;
            return Ok(false);
        }
        Does::BreaksOff => {
            frame(stream, HEADERS, END_HEADERS, id, STATUS_200)?;
            frame(stream, DATA, 0, id, &BODY[..5])?;
            frame(stream, RST_STREAM, 0, id, &INTERNAL_ERROR.to_be_bytes())?;
        }
    }
    Ok(true)
}

fn frame(stream: &mut Stream, kind: u8, flags: u8, id: u32, payload: &[u8]) -> std::io::Result<()> {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![len[1], len[2], len[3], kind, flags];
    bytes.extend_from_slice(&id.to_be_bytes());
    bytes.extend_from_slice(payload);
    stream.write_all(&bytes)?;
    stream.flush()
}
