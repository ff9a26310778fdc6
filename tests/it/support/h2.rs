//! An agent's side of HTTP/2 without TLS (prior knowledge), behind calls that wait.

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Runtime;

use super::client::{Answer, Ask, Broken};
use super::wait::PATIENCE;

/// A request's body, which may break off.
type Upload = BoxBody<Bytes, std::io::Error>;

fn whole(ask: &Ask) -> Upload {
    Full::new(Bytes::from(ask.body.clone())).map_err(|never| match never {}).boxed()
}

/// One HTTP/2 connection. Dropped, the connection is closed.
#[derive(Debug)]
pub(crate) struct H2 {
    runtime: Runtime,
    sender: SendRequest<Upload>,
    address: SocketAddr,
}

/// An answer while it is being read. Dropped, the stream is reset.
#[derive(Debug)]
pub(crate) struct H2Reading<'a> {
    runtime: &'a Runtime,
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    body: Incoming,
    pub(crate) read: Vec<u8>,
}

impl H2 {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::over(tokio::net::TcpStream::connect(address), address, None)
    }

    /// A connection on which no answer's body may be longer than `window` bytes until it has been read.
    pub(crate) fn with_window(address: SocketAddr, window: u32) -> Self {
        Self::over(tokio::net::TcpStream::connect(address), address, Some(window))
    }

    /// A connection to a Unix socket.
    pub(crate) fn connect_unix(path: &Path) -> Self {
        Self::over(tokio::net::UnixStream::connect(path), SocketAddr::from(([127, 0, 0, 1], 0)), None)
    }

    fn over<S>(
        connecting: impl Future<Output = std::io::Result<S>>,
        address: SocketAddr,
        window: Option<u32>,
    ) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let sender = runtime.block_on(async {
            let stream = connecting.await.unwrap();
            let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
            if let Some(window) = window {
                builder.initial_stream_window_size(window);
            }
            let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
            tokio::spawn(async move { drop(connection.await) });
            sender
        });
        Self { runtime, sender, address }
    }

    /// Sends a request and waits for the head of its answer.
    pub(crate) fn head(&self, ask: &Ask) -> Result<H2Reading<'_>, Broken> {
        self.ask(ask, whole(ask))
    }

    fn ask(&self, ask: &Ask, body: Upload) -> Result<H2Reading<'_>, Broken> {
        let mut request = http::Request::new(body);
        *request.method_mut() = ask.method.parse().unwrap();
        *request.uri_mut() = format!("http://{}{}", self.address, ask.path).parse().unwrap();
        for (name, value) in &ask.headers {
            let name: http::HeaderName = name.parse().unwrap();
            request.headers_mut().append(name, http::HeaderValue::from_bytes(value).unwrap());
        }
        let mut sender = self.sender.clone();
        let answer = self.runtime.block_on(async {
            tokio::time::timeout(3 * PATIENCE, sender.send_request(request)).await.expect("no head came")
        });
        let (head, body) = match answer {
            Ok(answer) => answer.into_parts(),
            Err(error) => return Err(Broken { status: None, body: Vec::new(), why: error.to_string() }),
        };
        let headers = head.headers.iter();
        let headers =
            headers.map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect();
        let status = head.status.as_u16();
        Ok(H2Reading { runtime: &self.runtime, status, headers, body, read: Vec::new() })
    }

    pub(crate) fn call(&self, ask: &Ask) -> Result<Answer, Broken> {
        self.head(ask)?.whole()
    }

    /// Sends half of a request's body and then resets the stream.
    pub(crate) fn cut_upload(&self, ask: &Ask) -> Result<Answer, Broken> {
        let half = Bytes::copy_from_slice(&ask.body[..ask.body.len() / 2]);
        let broken = || Err(std::io::Error::other("cut"));
        let frames = futures_util::stream::iter([Ok(Frame::data(half)), broken()]);
        self.ask(ask, StreamBody::new(frames).boxed())?.whole()
    }

    /// Starts a request and gives it up as soon as `until` says so: the stream is reset.
    pub(crate) fn abandon(&self, ask: &Ask, until: impl FnOnce()) {
        let mut request = http::Request::new(whole(ask));
        *request.method_mut() = ask.method.parse().unwrap();
        *request.uri_mut() = format!("http://{}{}", self.address, ask.path).parse().unwrap();
        for (name, value) in &ask.headers {
            let name: http::HeaderName = name.parse().unwrap();
            request.headers_mut().append(name, http::HeaderValue::from_bytes(value).unwrap());
        }
        let mut sender = self.sender.clone();
        let sending = self.runtime.spawn(async move { drop(sender.send_request(request).await) });
        until();
        sending.abort();
        drop(self.runtime.block_on(sending));
    }
}

impl H2Reading<'_> {
    /// Reads until the body holds `text`.
    pub(crate) fn until(&mut self, text: &str) -> Result<(), Broken> {
        while super::client::find(&self.read, text.as_bytes()).is_none() {
            if !self.more()? {
                return Err(self.broken("ended cleanly too early"));
            }
        }
        Ok(())
    }

    pub(crate) fn whole(mut self) -> Result<Answer, Broken> {
        while self.more()? {}
        Ok(Answer { status: self.status, headers: self.headers, body: self.read })
    }

    fn more(&mut self) -> Result<bool, Broken> {
        let frame = self.runtime.block_on(async {
            tokio::time::timeout(3 * PATIENCE, self.body.frame()).await.expect("the body stopped")
        });
        match frame {
            None => Ok(false),
            Some(Ok(frame)) => {
                if let Ok(bytes) = frame.into_data() {
                    self.read.extend_from_slice(&bytes);
                }
                Ok(true)
            }
            Some(Err(error)) => Err(self.broken(&error.to_string())),
        }
    }

    fn broken(&self, why: &str) -> Broken {
        Broken { status: Some(self.status), body: self.read.clone(), why: why.to_owned() }
    }
}
