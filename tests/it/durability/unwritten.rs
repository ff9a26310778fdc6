//! A journal that the system no longer lets the sidecar write.

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::json;

use crate::support::client::Ask;
use crate::support::llm::Api;
use crate::support::sidecar::{Setup, Sidecar};
use crate::support::upstream::Upstream;

use super::{chat_path, completion, counting};

/// A sidecar whose writes can be made to fail. The signal that comes with them would end it.
fn start(unavailable: &str) -> (Upstream, Upstream, Sidecar) {
    let (model, crm) = (Upstream::start(completion), counting());
    let setup = Setup::new().upstream("openai", "openai", &model.url()).upstream("crm", "http", &crm.url());
    let setup = setup.journal(&format!("segment_mib: 1, unavailable: {unavailable}"));
    let sidecar = setup.wrapped(&["sh", "-c", "trap '' XFSZ; exec \"$@\"", "sh"]).start();
    (model, crm, sidecar)
}

/// From now on every write of this process to a file fails with an I/O error (EFBIG, setrlimit(2)).
fn forbid_writing(sidecar: &Sidecar) {
    let pid = Pid::from_raw(i32::try_from(sidecar.pid()).unwrap());
    prlimit(pid, Resource::Fsize, Rlimit { current: Some(0), maximum: Some(0) }).unwrap();
}

fn charge(attempt: usize, number: usize) -> Ask {
    Ask::post(format!("/w/w/a/{attempt}/crm/charge"), json!({"number": number}).to_string())
}

#[test]
fn case_4_an_intent_that_cannot_be_written_keeps_the_effect_from_being_sent() {
    for unavailable in ["fail", "passthrough"] {
        let (model, crm, mut sidecar) = start(unavailable);
        let ask = |prompt: &str| Ask::post(chat_path(1), Api::OpenaiChat.ask(prompt, false));
        let lived = sidecar.call(&charge(1, 1)).expect(200, "live");
        sidecar.call(&ask("before")).expect(200, "live");
        forbid_writing(&sidecar);

        // The flush is not tried again, and so is not what it would have allowed.
        for _ in 0..2 {
            let refused = sidecar.call(&charge(1, 2));
            assert_eq!(
                (refused.status, refused.header("x-should-retry")),
                (503, Some("false")),
                "{refused:?}"
            );
            assert!(refused.text().contains("OG3005"), "{refused:?}");
        }
        assert_eq!(crm.count(), 1, "{unavailable}");
        let ready = sidecar.ask_admin(&Ask::get("/readyz"));
        assert_eq!((ready.status, &ready.json()["journal"]["poisoned"]), (503, &json!(true)), "{ready:?}");

        // Model calls and reads go as the config says.
        let reads = [ask("after"), Ask::get("/w/w/a/1/crm/customers")].map(|ask| sidecar.call(&ask));
        for read in reads {
            match unavailable {
                "fail" => {
                    assert_eq!(
                        (read.status, read.header("x-should-retry")),
                        (503, Some("false")),
                        "{read:?}"
                    );
                }
                _ => assert_eq!((read.status, read.source()), (200, "none"), "{read:?}"),
            }
        }
        let passed = usize::from(unavailable == "passthrough");
        assert_eq!((model.count(), crm.count()), (1 + passed, 1 + passed), "{unavailable}");

        // Where it can be written again, nothing is in doubt: the refused effect was never sent.
        sidecar.kill9();
        sidecar.restart();
        assert_eq!(sidecar.call(&charge(2, 1)).expect(200, "replay").body, lived.body);
        sidecar.call(&Ask::post(chat_path(2), Api::OpenaiChat.ask("before", false))).expect(200, "replay");
        sidecar.call(&charge(2, 2)).expect(200, "live");
        assert_eq!(crm.requests().iter().filter(|request| request.text().contains("2")).count(), 1);
    }
}
