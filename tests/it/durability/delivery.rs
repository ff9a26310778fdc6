//! When an answer counts as delivered over HTTP/2: not while flow control keeps its last byte here, whatever else
//! the connection has flushed meanwhile. Effects are counted by the upstream.

use crate::support::client::Ask;
use crate::support::h2::{H2, H2Reading};

use super::{counting, crm};

const ANSWER: &str = r#"{"call":1,"path":"/charge"}"#;

fn charge() -> Ask {
    Ask::post("/w/w/a/1/crm/charge", "{}")
}

#[track_caller]
fn expect(reading: &H2Reading<'_>, source: &str) {
    let said = reading.headers.iter().find(|(name, _)| name == "x-outrigger-source");
    let said = said.map(|(_, value)| String::from_utf8_lossy(value).into_owned());
    assert_eq!((reading.status, said.as_deref()), (200, Some(source)), "{reading:?}");
}

#[test]
fn an_answer_that_the_agents_window_held_back_is_given_to_its_retry_and_no_effect_sent_again() {
    let whole = u32::try_from(ANSWER.len()).unwrap();
    for window in [0, 1, whole - 1] {
        let upstream = counting();
        let sidecar = crm(&upstream).start();
        let agent = H2::with_window(sidecar.address(), window);
        // The first answer is a running step's, the later ones are recorded.
        for source in ["live", "replay", "replay"] {
            let reading = agent.head(&charge()).unwrap();
            expect(&reading, source);
            sidecar.wait_completed("w", 1);
            // Other answers leave by the same connection meanwhile.
            for _ in 0..3 {
                assert_eq!(agent.head(&Ask::get("/nowhere/x")).unwrap().status, 404);
            }
            // Dropped, its stream is reset; the connection goes on, and the retry follows at once.
            drop(reading);
        }
        let roomy = H2::connect(sidecar.address());
        let answer = roomy.call(&charge()).unwrap().expect(200, "replay");
        assert_eq!((answer.text().as_str(), upstream.count()), (ANSWER, 1), "a window of {window} bytes");
        // Delivered now: the same call is meant anew.
        let answer = roomy.call(&charge()).unwrap().expect(200, "live");
        assert_eq!((answer.step(), upstream.count()), (2, 2));
    }
}

#[test]
fn an_answer_that_just_fits_the_window_is_delivered() {
    let upstream = counting();
    let sidecar = crm(&upstream).start();
    let agent = H2::with_window(sidecar.address(), u32::try_from(ANSWER.len()).unwrap());
    for step in 1..=3 {
        let answer = agent.call(&charge()).unwrap().expect(200, "live");
        assert_eq!((answer.step(), answer.body.len()), (step, ANSWER.len()));
    }
}
