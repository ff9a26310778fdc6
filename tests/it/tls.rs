//! Upstreams behind TLS: whose certificates are trusted, which protocol is spoken, and what HTTP/2 says
//! about a request that got no answer.

use crate::support::client::Ask;
use crate::support::sidecar::{Setup, Sidecar};
use crate::support::tls::{Does, TlsUpstream};

const BOTH: &[&str] = &["h2", "http/1.1"];

/// A sidecar that trusts this upstream.
fn trusting(upstream: &TlsUpstream) -> (Sidecar, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ca.pem");
    upstream.write_certificate(&file);
    let extra = format!("ca_file: \"{}\"", file.display());
    (Setup::new().upstream_with("crm", "http", &upstream.url(), &extra).start(), dir)
}

fn charge(attempt: usize) -> Ask {
    Ask::post(format!("/w/w/a/{attempt}/crm/charge"), r#"{"amount":5}"#)
}

#[test]
fn a_private_certificate_is_trusted_where_the_config_says_so_and_nowhere_else() {
    let upstream = TlsUpstream::start(&[], BOTH);
    let (sidecar, _files) = trusting(&upstream);
    assert_eq!(sidecar.call(&charge(1)).expect(200, "live").text(), r#"{"fine":true}"#);
    assert_eq!(sidecar.call(&charge(2)).expect(200, "replay").text(), r#"{"fine":true}"#);
    assert_eq!(upstream.count(), 1);

    let sidecar = Setup::new().upstream("crm", "http", &upstream.url()).start();
    for path in ["/crm/charge", "/w/w/a/1/crm/charge"] {
        let refused = sidecar.call(&Ask::post(path, "{}"));
        let text = refused.text();
        assert_eq!(refused.status, 502, "{refused:?}");
        assert!(text.contains("OG4002") && text.contains("nothing was sent"), "{refused:?}");
    }
    assert_eq!(upstream.count(), 1);
    assert_eq!(sidecar.states("w"), ["failed"]);
}

#[test]
fn http_2_is_spoken_where_it_is_offered() {
    for (offered, spoken) in [(BOTH, "HTTP/2"), (&["http/1.1"][..], "HTTP/1.1"), (&[][..], "HTTP/1.1")] {
        let upstream = TlsUpstream::start(&[], offered);
        let (sidecar, _files) = trusting(&upstream);
        sidecar.call(&charge(1)).expect(200, "live");
        assert_eq!(sidecar.call(&Ask::get("/crm/x")).status, 200);
        assert_eq!(upstream.versions(), [spoken, spoken], "offered: {offered:?}");
    }
}

#[test]
fn below_the_cases_an_http_2_stream_that_was_processed_or_may_have_been_is_in_doubt() {
    for does in [Does::BreaksOff, Does::GoesAwayAfter, Does::GoesAwayGracefully] {
        let upstream = TlsUpstream::start(&[does], BOTH);
        let (sidecar, _files) = trusting(&upstream);
        if let Ok(answer) = sidecar.try_call(&charge(1)) {
            assert_eq!(answer.status, 422, "{does:?}: {answer:?}");
        }
        let refused = sidecar.call(&charge(2));
        assert_eq!(refused.status, 422, "{does:?}: {refused:?}");
        assert!(refused.text().contains("OG3001"), "{does:?}: {refused:?}");
        assert_eq!((upstream.count(), sidecar.states("w")), (1, vec!["in_doubt".to_owned()]), "{does:?}");
    }
}

#[test]
fn below_the_cases_an_http_2_stream_that_was_not_processed_is_no_doubt_and_is_sent_again() {
    for does in [Does::Refuses, Does::GoesAwayBefore] {
        let upstream = TlsUpstream::start(&[does], BOTH);
        let (sidecar, _files) = trusting(&upstream);
        let failed = sidecar.call(&charge(1));
        assert_eq!(failed.status, 502, "{does:?}: {failed:?}");
        assert!(failed.text().contains("nothing was done"), "{does:?}: {failed:?}");
        assert_eq!((upstream.count(), sidecar.states("w")), (1, vec!["failed".to_owned()]), "{does:?}");
        // The same process asks again, and one that was restarted finds what that has brought.
        assert_eq!(sidecar.call(&charge(1)).expect(200, "live").text(), r#"{"fine":true}"#);
        assert_eq!(sidecar.call(&charge(2)).expect(200, "replay").text(), r#"{"fine":true}"#);
        assert_eq!((upstream.count(), sidecar.states("w")), (2, vec!["completed".to_owned()]), "{does:?}");
    }
}
