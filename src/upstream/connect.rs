//! Connections: TCP without delay, TLS by rustls with aws-lc-rs, HTTP/2 where the upstream offers it.

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tower::Service;

use super::Config;

/// A set of root certificates that cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {path}: {detail}")]
    CaFile { path: PathBuf, detail: String },
    #[error("{path} holds no usable certificate")]
    NoCertificate { path: PathBuf },
    #[error("no TLS configuration: {0}")]
    Provider(#[from] rustls::Error),
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Puts a deadline around everything that making a connection takes. The inner connector's own timeout
/// covers TCP only, and a peer that accepts and then says nothing would hang the TLS handshake for ever.
#[derive(Clone, Debug)]
pub(super) struct Deadline<C> {
    inner: C,
    limit: Duration,
}

impl<C> Service<Uri> for Deadline<C>
where
    C: Service<Uri, Error = BoxError>,
    C::Future: Send + 'static,
    C::Response: Send,
{
    type Response = C::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<C::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (connecting, limit) = (self.inner.call(uri), self.limit);
        Box::pin(async move {
            tokio::time::timeout(limit, connecting).await.unwrap_or_else(|_| {
                let text = format!("no connection after {} s", limit.as_secs_f64());
                Err(io::Error::new(io::ErrorKind::TimedOut, text).into())
            })
        })
    }
}

pub(super) fn connector(config: &Config) -> Result<Deadline<HttpsConnector<HttpConnector>>, TlsError> {
    let mut http = HttpConnector::new();
    http.set_nodelay(true);
    http.enforce_http(false);
    http.set_connect_timeout(Some(config.connect_timeout));
    http.set_keepalive(Some(Duration::from_secs(30)));
    let https = HttpsConnectorBuilder::new()
        .with_tls_config(tls(config)?)
        .https_or_http()
        .enable_all_versions()
        .wrap_connector(http);
    Ok(Deadline { inner: https, limit: config.connect_timeout })
}

/// The machine's roots, the bundled ones, and those of `ca_file`.
fn tls(config: &Config) -> Result<ClientConfig, TlsError> {
    let mut roots = RootCertStore::empty();
    if config.https {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    if let Some(path) = &config.ca_file {
        let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect)
            .map_err(|error| TlsError::CaFile { path: path.clone(), detail: error.to_string() })?;
        if roots.add_parsable_certificates(certificates).0 == 0 {
            return Err(TlsError::NoCertificate { path: path.clone() });
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth())
}
