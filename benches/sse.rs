//! What it costs to follow a model's stream: short and long, each event in a chunk of its own or many in one,
//! with and without hiding the usage that only Outrigger asked for.
#![allow(clippy::unwrap_used, reason = "a bench says what must be so, and fails where it is not")]

mod support;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

use outrigger::model::Surface;
use outrigger::wire::{Answer, AnswerHead, AnswerOptions, Outcome};

/// How many bytes a socket read holds when the upstream is faster than the reader.
const READ_BYTES: usize = 16 << 10;

fn follow(chunks: Vec<Bytes>, hide_usage: bool) -> Outcome {
    let head = AnswerHead { status: 200, content_type: Some("text/event-stream"), content_encoding: None };
    let mut answer =
        Answer::new(Surface::OpenaiChat, &head, AnswerOptions { hide_usage, ..AnswerOptions::default() });
    let mut pieces = Vec::new();
    for chunk in chunks {
        pieces.clear();
        answer.feed(chunk, &mut pieces).unwrap();
    }
    answer.finish(&mut pieces).unwrap()
}

fn bench(criterion: &mut Criterion) {
    for events in [200, 10_000] {
        let stream = support::chat_events(events);
        let whole = Bytes::from(stream.concat());
        let single: Vec<Bytes> = stream.into_iter().map(Bytes::from).collect();
        let joined: Vec<Bytes> = (0..whole.len())
            .step_by(READ_BYTES)
            .map(|at| whole.slice(at..whole.len().min(at + READ_BYTES)))
            .collect();
        let mut group = criterion.benchmark_group(format!("{events} events"));
        group.throughput(Throughput::Bytes(u64::try_from(whole.len()).unwrap()));
        for (name, chunks, hide_usage) in [
            ("one per chunk", &single, false),
            ("one per chunk, usage hidden", &single, true),
            ("16 KiB chunks", &joined, false),
            ("16 KiB chunks, usage hidden", &joined, true),
        ] {
            assert!(follow(chunks.clone(), hide_usage).usage.is_some(), "the fold found the usage");
            group.bench_function(name, |bencher| {
                let chunks = || chunks.clone();
                bencher.iter_batched(chunks, |chunks| follow(chunks, hide_usage), BatchSize::SmallInput);
            });
        }
        group.finish();
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
