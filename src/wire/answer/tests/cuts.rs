//! Answers that break off, and answers cut into chunks anyhow.

use proptest::prelude::*;

use super::*;

#[test]
fn a_stream_without_its_end_is_cut_wherever_it_breaks_off() {
    for case in streams() {
        let Driven { held, recorded, .. } = case.drive();
        // Everything before the last held event: the end may take several events.
        let Some(last_event) = case.surface_end() else { continue };
        let limit = memchr::memmem::rfind(case.body, last_event).expect("the corpus has its end");
        for len in 0..limit {
            let driven = drive(case.answer(), [&case.body[..len]]);
            let expected = if case.surface == Surface::Mcp { Cut::NoResponse } else { Cut::NoEnd };
            assert_eq!(driven.outcome, Err(expected), "{case:?} cut after {len} bytes");
            assert!(recorded.starts_with(&driven.recorded), "no half event is given out");
        }
        assert!(!held.is_empty());
    }
}

impl Case {
    /// Bytes without which the stream is not complete, for streams that have no second way to end.
    fn surface_end(&self) -> Option<&'static [u8]> {
        match self.surface {
            Surface::AnthropicMessages => {
                Some(if memchr::memmem::find(self.body, b"event: error").is_some() {
                    b"event: error"
                } else {
                    b"event: message_stop"
                })
            }
            Surface::OpenaiResponses => Some(b"event: "),
            Surface::GeminiGenerate => Some(b"data: "),
            Surface::Mcp if memchr::memmem::find(self.body, b"\"result\":{\"content\"").is_some() => {
                Some(b"\"isError\"")
            }
            Surface::GeminiEmbed
            | Surface::Http
            | Surface::Mcp
            | Surface::OpenaiChat
            | Surface::OpenaiCompletions
            | Surface::OpenaiEmbeddings => None,
        }
    }
}

#[test]
fn a_chat_is_complete_when_every_choice_is_and_needs_no_done() {
    let text = std::str::from_utf8(corpus!("chat/two_choices.sse")).unwrap();
    let events: Vec<&str> = text.split_inclusive("\n\n").collect();
    let outcome = |count: usize| {
        let case = Case::sse(Surface::OpenaiChat, b"");
        drive(case.answer(), events[..count].iter().map(|event| event.as_bytes())).outcome.map(drop)
    };
    assert_eq!(outcome(0), Err(Cut::NoEnd));
    assert_eq!(outcome(3), Err(Cut::NoEnd), "the second choice is still open");
    assert_eq!(outcome(5), Ok(()));
    let only_done = Case::sse(Surface::OpenaiChat, b"data: {\"choices\":[{\"delta\":{}}]}\n\ndata: [DONE]");
    assert_eq!(only_done.drive().outcome.map(drop), Ok(()));
}

#[test]
fn half_a_json_body_is_cut_however_cleanly_it_ends() {
    for (case, body) in [
        (Case::json(Surface::OpenaiChat, b""), &corpus!("chat/plain.json")[..]),
        (Case::json(Surface::GeminiGenerate, b""), corpus!("gemini/array.json")),
        (mcp(Case::json(Surface::Mcp, b""), "7"), corpus!("mcp/result.json")),
    ] {
        let end = body.trim_ascii_end().len();
        for len in 1..end {
            let driven = drive(case.answer(), [&body[..len]]);
            assert_eq!(driven.outcome, Err(Cut::HalfJson), "{case:?} cut after {len} bytes");
            assert_eq!(driven.held, b"");
        }
        assert_eq!(drive(case.answer(), [&body[..end]]).outcome.map(drop), Ok(()));
    }
    // Neither an upstream's odd text nor no body at all is half an answer.
    for body in [&b"<html>oops</html>"[..], b""] {
        assert_eq!(Case::json(Surface::OpenaiChat, body).drive().outcome, Ok(Outcome::default()));
    }
}

/// The same but for how many pieces it took.
fn same(one: &Driven, other: &Driven) -> bool {
    (&one.now, &one.held, &one.recorded, &one.outcome)
        == (&other.now, &other.held, &other.recorded, &other.outcome)
}

#[test]
fn streams_come_out_the_same_cut_at_any_byte() {
    for case in streams() {
        let whole = case.drive();
        if !case.hide_usage && whole.outcome.is_ok() {
            assert_eq!(whole.now.len() + whole.held.len(), case.body.len(), "no byte is lost: {case:?}");
        }
        for cut in 0..=case.body.len() {
            let (one, other) = case.body.split_at(cut);
            assert!(same(&drive(case.answer(), [one, other]), &whole), "{case:?}, cut at {cut}");
        }
        assert!(same(&drive(case.answer(), case.body.chunks(1)), &whole), "{case:?}, byte by byte");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn streams_come_out_the_same_however_they_are_cut(
        which in any::<prop::sample::Index>(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..40),
    ) {
        let cases = streams();
        let case = cases[which.index(cases.len())];
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(case.body.len() + 1)).collect();
        cuts.extend([0, case.body.len()]);
        cuts.sort_unstable();
        let driven = drive(case.answer(), cuts.windows(2).map(|pair| &case.body[pair[0]..pair[1]]));
        prop_assert!(same(&driven, &case.drive()), "{:?}", case);
    }

    #[test]
    fn other_bodies_keep_their_bytes_and_hold_their_last_frame(
        frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..10),
    ) {
        let case = Case::new(Surface::Http, "application/octet-stream", b"");
        let driven = drive(case.answer(), frames.iter().map(Vec::as_slice));
        let all = frames.concat();
        let last = frames.iter().rfind(|frame| !frame.is_empty()).cloned().unwrap_or_default();
        prop_assert_eq!(&driven.recorded, &all);
        prop_assert_eq!(&driven.held, &last);
        prop_assert_eq!(driven.now.len() + driven.held.len(), all.len());
        prop_assert!(driven.pieces <= frames.len());
    }
}
