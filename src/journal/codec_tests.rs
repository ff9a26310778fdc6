//! Round trips, what older and newer readers do, and the bytes of format 1.

#[path = "codec_tests/latest.rs"]
mod latest;

use proptest::prelude::*;

use super::super::conformance as records;
use super::super::record::{Completed, Diverged, FailedAnswer, Intent, Listed, Peer, Words};
use super::*;
use crate::model::{
    AttemptId, AttemptReason, BodyHash, CallKind, Dialect, EffectClass, Epoch, FailureClass, Fingerprint,
    FoundBy, Owner, Resolution, RunNonce, StepIndex, Timestamp, UpstreamName, Usage, WorkflowId,
};
use crate::wire::refusal::{Again, McpForm};

fn step() -> impl Strategy<Value = StepIndex> {
    (1..=u64::MAX).prop_map(|number| StepIndex::new(number).unwrap())
}

fn attempt() -> impl Strategy<Value = AttemptId> {
    (1..=u32::MAX).prop_map(|number| AttemptId::new(number).unwrap())
}

fn at() -> impl Strategy<Value = Timestamp> {
    any::<i64>().prop_map(Timestamp)
}

fn print() -> impl Strategy<Value = Fingerprint> {
    any::<[u8; 32]>().prop_map(Fingerprint)
}

fn body() -> impl Strategy<Value = BodyHash> {
    any::<[u8; 32]>().prop_map(BodyHash)
}

fn upstream() -> impl Strategy<Value = UpstreamName> {
    "[b-v][a-z0-9-]{0,31}".prop_map(|name| UpstreamName::parse(&name).unwrap())
}

fn headers() -> impl Strategy<Value = Vec<(String, Vec<u8>)>> {
    prop::collection::vec(("[a-z-]{1,20}", prop::collection::vec(any::<u8>(), 0..30)), 0..6)
}

fn peer() -> impl Strategy<Value = Peer> {
    (".{0,40}", any::<(u64, u32, u64, u32)>()).prop_map(
        |(boot_id, (pid_namespace, pid, start_ticks, process_group))| Peer {
            boot_id,
            pid_namespace,
            pid,
            start_ticks,
            process_group,
        },
    )
}

fn usage() -> impl Strategy<Value = Usage> {
    any::<[Option<u64>; 5]>().prop_map(|[input, output, cache_read, cache_write, reasoning]| Usage {
        input,
        output,
        cache_read,
        cache_write,
        reasoning,
    })
}

fn intent() -> impl Strategy<Value = Record> {
    let kinds = (
        prop::sample::select(vec![CallKind::Http, CallKind::Llm, CallKind::Mcp]),
        prop::sample::select(Dialect::ALL.to_vec()),
        prop::sample::select(vec![EffectClass::Effect, EffectClass::Idempotent, EffectClass::Read]),
    );
    let prints = (print(), prop::option::of(print()), prop::option::of(print()));
    let ids = (step(), attempt(), upstream(), prints, body());
    let keys = (prop::option::of(".{0,40}"), prop::option::of(".{0,40}"));
    let rest = (".{0,60}", any::<u32>(), keys, any::<u64>(), any::<u64>(), at());
    (kinds, ids, rest).prop_map(
        |((kind, dialect, class), (step, attempt, upstream, prints, request), rest)| {
            let (exact, normalised, identity) = prints;
            let (operation, occurrence, (idempotency_key, key_place), epoch, request_len, at) = rest;
            Record::Intent(Intent {
                step,
                attempt,
                epoch: Epoch(epoch),
                kind,
                dialect,
                upstream,
                operation,
                class,
                exact,
                normalised,
                occurrence,
                idempotency_key,
                request,
                request_len,
                at,
                identity,
                key_place,
            })
        },
    )
}

fn completed() -> impl Strategy<Value = Record> {
    let answer = (any::<u16>(), headers(), body(), any::<u64>(), any::<bool>());
    let model =
        (prop::option::of(usage()), prop::option::of(".{0,20}"), prop::collection::vec(".{0,20}", 0..4));
    let rest = (any::<bool>(), any::<bool>(), any::<u32>());
    (step(), answer, model, rest, at()).prop_map(|(step, answer, model, rest, at)| {
        let (status, headers, body, body_len, body_dropped) = answer;
        let (usage, finish_reason, announced) = model;
        let (is_error, possibly_billed, tried) = rest;
        Record::Completed(Completed {
            step,
            status,
            headers,
            body,
            body_len,
            body_dropped,
            usage,
            finish_reason,
            announced,
            is_error,
            possibly_billed,
            tried,
            at,
        })
    })
}

fn words() -> impl Strategy<Value = Words> {
    let again = prop::sample::select(vec![Again::Harmful, Again::Pointless, Again::Useful]);
    let mcp = prop::sample::select(vec![McpForm::Error, McpForm::Result, McpForm::Specified(-32_601)]);
    (any::<u16>(), ".{0,9}", ".{0,60}", again, prop::option::of(any::<u32>()), mcp).prop_map(
        |(status, code, message, again, retry_after_s, mcp)| Words {
            status,
            code,
            message,
            again,
            retry_after_s,
            mcp,
        },
    )
}

fn failed_answer() -> impl Strategy<Value = FailedAnswer> {
    (any::<u16>(), headers(), body(), any::<u64>())
        .prop_map(|(status, headers, body, body_len)| FailedAnswer { status, headers, body, body_len })
}

fn told() -> impl Strategy<Value = Record> {
    prop_oneof![
        (prop::option::of(step()), attempt(), print())
            .prop_map(|(step, attempt, exact)| Record::RefusalDelivered { step, attempt, exact }),
        (prop::option::of(step()), attempt(), print(), at())
            .prop_map(|(step, attempt, exact, at)| Record::ToldAgain { step, attempt, exact, at }),
    ]
}

/// What is recorded of a workflow once it is done with.
fn of_the_end() -> impl Strategy<Value = Record> {
    prop_oneof![
        (".{0,60}", at()).prop_map(|(reason, at)| Record::WorkflowClosed { reason, at }),
        at().prop_map(|at| Record::BodiesExpired { at }),
        (at(), at(), at()).prop_map(|(from, to, at)| Record::Removed { opened_at: from, closed_at: to, at }),
    ]
}

fn small() -> impl Strategy<Value = Record> {
    let reasons =
        vec![AttemptReason::Explicit, AttemptReason::First, AttemptReason::Process, AttemptReason::Rewind];
    let classes = vec![
        FailureClass::Cut,
        FailureClass::Connect,
        FailureClass::Reset,
        FailureClass::Status,
        FailureClass::Timeout,
    ];
    let found = vec![FoundBy::Exact, FoundBy::Identity, FoundBy::Normalised];
    let resolutions =
        vec![Resolution::Abandoned, Resolution::Completed, Resolution::NotExecuted, Resolution::Repeat];
    prop_oneof![
        (any::<[u8; 16]>(), ".{0,20}", at()).prop_map(|(nonce, version, at)| Record::WorkflowOpened {
            nonce: RunNonce(nonce),
            version,
            at
        }),
        (attempt(), any::<u64>(), prop::sample::select(reasons), prop::option::of(peer()), at()).prop_map(
            |(attempt, epoch, reason, peer, at)| Record::AttemptOpened {
                attempt,
                epoch: Epoch(epoch),
                reason,
                peer,
                at
            }
        ),
        (step(), any::<u32>(), at()).prop_map(|(step, tried, at)| Record::Dispatched { step, tried, at }),
        (
            (step(), any::<u32>(), prop::sample::select(classes)),
            (prop::option::of(any::<u16>()), any::<bool>(), ".{0,60}", at(), prop::option::of(any::<bool>())),
            (prop::option::of(failed_answer()), prop::option::of(words()))
        )
            .prop_map(
                |((step, tried, class), (status, not_sent, detail, at, not_executed), (answer, words))| {
                    Record::Failed {
                        step,
                        tried,
                        class,
                        status,
                        not_sent,
                        detail,
                        at,
                        not_executed,
                        answer,
                        words,
                    }
                }
            ),
        (prop::option::of(step()), attempt(), print(), ".{0,60}", ".{0,9}", at(), prop::option::of(words()))
            .prop_map(|(step, attempt, exact, operation, code, at, words)| Record::Refused {
                step,
                attempt,
                exact,
                operation,
                code,
                at,
                words
            }),
        (step(), ".{0,60}", at()).prop_map(|(step, cause, at)| Record::InDoubt { step, cause, at }),
        (step(), attempt(), at(), prop::option::of(prop::sample::select(found)))
            .prop_map(|(step, attempt, at, found_by)| Record::Redelivered { step, attempt, at, found_by }),
        (step(), attempt()).prop_map(|(step, attempt)| Record::Delivered { step, attempt }),
        of_the_end(),
        (step(), any::<u32>(), at()).prop_map(|(step, tried, at)| Record::InputRequired { step, tried, at }),
        (prop::collection::vec(any::<u64>(), 0..5), ".{0,30}", at())
            .prop_map(|(steps, by, at)| Record::Accepted { steps, by, at }),
        (step(), prop::sample::select(resolutions), ".{0,30}", at())
            .prop_map(|(step, resolution, by, at)| Record::Resolved { step, resolution, by, at }),
    ]
}

fn listed() -> impl Strategy<Value = Record> {
    let said = (any::<u16>(), headers(), body(), prop::option::of(any::<bool>()));
    (print(), attempt(), upstream(), ".{0,30}", body(), said, at()).prop_map(
        |(list, attempt, upstream, method, request, (status, headers, body, changed), at)| {
            Record::Listed(Listed {
                list,
                attempt,
                upstream,
                method,
                request,
                status,
                headers,
                body,
                at,
                changed,
            })
        },
    )
}

fn diverged() -> impl Strategy<Value = Record> {
    let text = || prop::option::of(".{0,30}");
    let left_out = (prop::collection::vec(any::<u64>(), 0..5), any::<bool>());
    (attempt(), ".{0,30}", print(), prop::option::of(step()), (text(), text(), text()), left_out, at())
        .prop_map(
            |(attempt, operation, exact, expected, (pointer, recorded, asked), (left_out, refused), at)| {
                Record::Diverged(Diverged {
                    attempt,
                    operation,
                    exact,
                    expected,
                    pointer,
                    recorded,
                    asked,
                    left_out,
                    refused,
                    at,
                })
            },
        )
}

pub(super) fn record() -> impl Strategy<Value = Record> {
    prop_oneof![intent(), completed(), small(), told(), listed(), diverged(), latest::record()]
}

proptest! {
    #[test]
    fn every_record_comes_back_as_it_was(record in record()) {
        prop_assert_eq!(decode(&encode(&record)), Ok(record));
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in any::<prop::sample::Index>()) {
        let _ = decode(&bytes);
        let _ = decode(&[&[VERSION, 0x82, 0x03, 0xa1], &bytes[..]].concat());
        let stored = encode(&records::workflow_opened());
        let short = &stored[..cut.index(stored.len())];
        prop_assert!(decode(short).is_err());
    }
}

#[test]
fn a_newer_version_and_a_newer_kind_are_named_as_such() {
    let stored = encode(&records::workflow_closed());
    let mut version = stored.clone();
    version[0] = 2;
    assert_eq!(decode(&version), Err(Error::Newer { what: "record version 2".to_owned() }));
    let mut kind = stored;
    assert_eq!(kind[2], 12, "the kind of WorkflowClosed");
    kind[2] = 23;
    let newer = decode(&kind).unwrap_err();
    assert!(matches!(newer, Error::Newer { .. }), "{newer}");
    assert!(newer.to_string().starts_with("the record was written by a newer version"), "{newer}");
    assert!(matches!(decode(&[]), Err(Error::Malformed(_))));
    assert!(matches!(decode(&[0, 1]), Err(Error::Malformed(_))));
}

#[test]
fn a_member_that_a_later_version_adds_is_passed_over() {
    let stored = encode(&records::delivered(3, 2));
    // [10, {1: 3, 2: 2}] becomes [10, {1: 3, 2: 2, 23: "later"}].
    assert_eq!(stored, [VERSION, 0x82, 10, 0xa2, 1, 3, 2, 2]);
    let mut later = stored;
    later[3] = 0xa3;
    later.extend([23, 0x65]);
    later.extend(b"later");
    assert_eq!(decode(&later), Ok(records::delivered(3, 2)));
}

/// What this version wrote on the day the format was fixed. These lines are never changed, only added to.
const FORMAT_1: &str = include_str!("../../tests/corpus/journal/format-1.txt");

fn format_1_records() -> Vec<Record> {
    let usage = Usage {
        input: Some(1200),
        output: Some(34),
        cache_read: None,
        cache_write: Some(0),
        reasoning: None,
    };
    let peer = Peer {
        boot_id: "9f7d3c5e-0000-4000-8000-000000000001".to_owned(),
        pid_namespace: 4_026_531_836,
        pid: 4242,
        start_ticks: 987_654,
        process_group: 4240,
    };
    let at = Timestamp(1_795_140_000_000);
    vec![
        records::workflow_opened(),
        records::attempt_opened(1),
        Record::AttemptOpened {
            attempt: records::attempt(2),
            epoch: Epoch(3),
            reason: AttemptReason::Process,
            peer: Some(peer),
            at,
        },
        Record::Intent(records::intent(1, 1, 1)),
        Record::Intent(Intent {
            kind: CallKind::Llm,
            dialect: Dialect::Openai,
            class: EffectClass::Read,
            normalised: Some(records::print(2)),
            idempotency_key: Some("or-1".to_owned()),
            ..records::intent(2, 2, 3)
        }),
        records::dispatched(1, 1),
        Record::Completed(records::completed(1, b"answer")),
        Record::Completed(Completed {
            usage: Some(usage),
            finish_reason: None,
            ..records::completed(2, b"")
        }),
        records::failed(2, 1, Some(503)),
        records::failed(2, 2, None),
        Record::Refused {
            step: None,
            attempt: records::attempt(2),
            exact: records::print(4),
            operation: "charge".to_owned(),
            code: "OG4002".to_owned(),
            at,
            words: None,
        },
        records::in_doubt(2),
        records::redelivered(1, 2),
        records::delivered(1, 2),
        Record::Listed(records::listed(5, 1, b"list")),
        records::workflow_closed(),
    ]
}

/// What came to the format later; none of it changes what was there.
fn later_records() -> Vec<Record> {
    let at = Timestamp(1_795_140_000_000);
    vec![
        Record::Intent(Intent { identity: Some(records::print(6)), ..records::intent(3, 2, 4) }),
        Record::Failed {
            step: records::step(3),
            tried: 1,
            class: FailureClass::Status,
            status: Some(503),
            not_sent: false,
            detail: "refused".to_owned(),
            at,
            not_executed: Some(true),
            answer: None,
            words: None,
        },
        records::resolved(3, Resolution::Repeat),
        Record::Diverged(Diverged {
            attempt: records::attempt(2),
            operation: "gpt-5.5".to_owned(),
            exact: records::print(9),
            expected: Some(records::step(3)),
            pointer: Some("/messages/0/content".to_owned()),
            recorded: Some("a text of 8 characters".to_owned()),
            asked: Some("a text of 9 characters".to_owned()),
            left_out: vec![3],
            refused: true,
            at,
        }),
        Record::Accepted { steps: vec![3], by: "outrigger accept".to_owned(), at },
        Record::Failed {
            step: records::step(3),
            tried: 1,
            class: FailureClass::Status,
            status: Some(503),
            not_sent: false,
            detail: "refused".to_owned(),
            at,
            not_executed: None,
            answer: Some(FailedAnswer {
                status: 503,
                headers: vec![("retry-after".to_owned(), b"1".to_vec())],
                body: BodyHash([5; 32]),
                body_len: 4,
            }),
            words: None,
        },
        Record::Refused {
            step: Some(records::step(3)),
            attempt: records::attempt(2),
            exact: records::print(4),
            operation: "charge".to_owned(),
            code: "OG3001".to_owned(),
            at,
            words: Some(Words {
                status: 422,
                code: "OG3001".to_owned(),
                message: "in doubt".to_owned(),
                again: Again::Harmful,
                retry_after_s: Some(1),
                mcp: McpForm::Specified(-32_601),
            }),
        },
        Record::RefusalDelivered {
            step: Some(records::step(3)),
            attempt: records::attempt(2),
            exact: records::print(4),
        },
        Record::ToldAgain { step: None, attempt: records::attempt(3), exact: records::print(4), at },
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn what_format_1_wrote_is_still_read_and_still_written() {
    let lines = FORMAT_1.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>();
    let records = [format_1_records(), later_records(), latest::records()].concat();
    let written = records.iter().map(|record| hex(&encode(record))).collect::<Vec<_>>();
    assert_eq!(written, lines, "written now:\n{}", written.join("\n"));
    for (line, record) in lines.iter().zip(records) {
        let bytes = (0..line.len()).step_by(2).map(|at| u8::from_str_radix(&line[at..at + 2], 16).unwrap());
        assert_eq!(decode(&bytes.collect::<Vec<_>>()), Ok(record));
    }
}

#[test]
fn the_chain_tells_workflows_and_orders_apart() {
    let ours = records::key("w");
    let theirs = WorkflowKey { owner: Owner::recorded("loca"), workflow: WorkflowId::parse("lw").unwrap() };
    assert_ne!(genesis(&ours), genesis(&theirs));
    let start = genesis(&ours);
    let ab = chain(&chain(&start, b"a"), b"b");
    let ba = chain(&chain(&start, b"b"), b"a");
    assert_ne!(ab, ba);
}
