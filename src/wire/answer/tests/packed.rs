//! Compressed answers: what they say is read, and what leaves are the bytes that came.

use std::io::Write;

use super::*;

/// Compresses each part so that it can be read as soon as it has come, and the end behind the last.
fn gzip(parts: &[&[u8]]) -> Vec<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    let mut packed: Vec<Vec<u8>> = parts
        .iter()
        .map(|part| {
            encoder.write_all(part).unwrap();
            encoder.flush().unwrap();
            std::mem::take(encoder.get_mut())
        })
        .collect();
    packed.push(encoder.finish().unwrap());
    packed
}

fn events(body: &[u8]) -> Vec<&[u8]> {
    let mut splitter = Splitter::new();
    let split = splitter.feed(Bytes::copy_from_slice(body)).unwrap();
    let mut parts: Vec<&[u8]> = split.spans().map(|span| &body[span]).collect();
    let rest = split.ends.last().copied().unwrap_or(0);
    parts.extend(Some(&body[rest..]).filter(|rest| !rest.is_empty()));
    parts
}

#[test]
fn a_compressed_stream_says_the_same_and_leaves_as_it_came() {
    for case in streams() {
        let plain = Case { hide_usage: false, ..case };
        let packed = Case { encoding: Some("gzip"), ..case };
        let parts = events(plain.body);
        let chunks = gzip(&parts);
        let driven = drive(packed.answer(), chunks.iter().map(Vec::as_slice));
        assert_eq!(driven.outcome, plain.drive().outcome, "{plain:?}");
        assert!(chunks.concat().starts_with(&driven.recorded), "{plain:?}: other bytes");
        if driven.outcome.is_ok() {
            assert_eq!(driven.recorded.len(), chunks.concat().len(), "{plain:?}");
            assert!(!driven.held.is_empty(), "{plain:?}: its end is held");
        }
    }
}

#[test]
fn a_compressed_stream_is_held_from_the_piece_that_its_last_words_begin_in() {
    let case = Case { encoding: Some("gzip"), ..Case::sse(Surface::OpenaiChat, corpus!("chat/groq.sse")) };
    let plain = Case { encoding: None, ..case };
    let parts = events(case.body);
    let chunks = gzip(&parts);
    let free = parts.iter().take_while(|part| memchr::memmem::find(part, b"\"stop\"").is_none()).count();
    assert!(0 < free && free < parts.len());
    let driven = drive(case.answer(), chunks.iter().map(Vec::as_slice));
    assert!(driven.now == chunks[..free].concat() && driven.held == chunks[free..].concat());
    // However it is cut, nothing of the last words is out before its time.
    let whole = chunks.concat();
    for size in [1, 2, 7, 100] {
        let driven = drive(case.answer(), whole.chunks(size));
        assert_eq!(driven.outcome, plain.drive().outcome);
        assert!(driven.recorded == whole);
        let seen = Unpacker::new("gzip").unwrap().feed(&driven.now).unwrap();
        assert!(parts[..free].concat().starts_with(&seen), "in pieces of {size}");
    }
}

#[test]
fn a_compressed_stream_that_ends_cleanly_and_too_early_is_cut() {
    let case = Case { encoding: Some("gzip"), ..Case::sse(Surface::OpenaiChat, corpus!("chat/groq.sse")) };
    let parts = events(case.body);
    let free = parts.iter().take_while(|part| memchr::memmem::find(part, b"\"stop\"").is_none()).count();
    for len in 0..free {
        // Compressed as if this were all of it.
        let chunks = gzip(&parts[..len]);
        let driven = drive(case.answer(), chunks.iter().map(Vec::as_slice));
        assert_eq!(driven.outcome, Err(Cut::NoEnd), "after {len} events");
    }
    let half = gzip(&[&br#"{"choices":[{"index"#[..]]);
    let json = Case { encoding: Some("gzip"), ..Case::json(Surface::OpenaiChat, b"") };
    assert_eq!(drive(json.answer(), half.iter().map(Vec::as_slice)).outcome, Err(Cut::HalfJson));
}

#[test]
fn what_does_not_decode_is_no_answer() {
    for case in [Case::sse(Surface::OpenaiChat, b""), Case::json(Surface::OpenaiChat, b"")] {
        let mut answer = Case { encoding: Some("gzip"), ..case }.answer();
        let mut pieces = Vec::new();
        _ = answer.feed(Bytes::from_static(b"this is not gzip at all"), &mut pieces);
        assert_eq!(answer.finish(&mut pieces), Err(Cut::Damaged));
        assert_eq!(pieces, []);
    }
}
