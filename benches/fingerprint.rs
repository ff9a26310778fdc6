//! What it costs to find out which step a request is: reading the body, then its fingerprints. Beside it, for
//! scale, one BLAKE3 over the raw bytes, below which nothing that looks at every byte can come.
#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a bench says what must be so, and fails where it is not"
)]

mod support;

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

use outrigger::model::Dialect;
use outrigger::replay::fingerprint::{self, Asked};
use outrigger::replay::normalise::Matching;
use outrigger::wire::{self, Inspected, RequestView};

const HEADERS: [(&str, &[u8]); 2] = [("content-type", b"application/json"), ("user-agent", b"OpenAI/Python")];
const PATH: &str = "/v1/chat/completions";

fn inspect(body: &[u8]) -> Inspected {
    let view = RequestView { dialect: Dialect::Openai, method: "POST", path: PATH, headers: &HEADERS, body };
    wire::inspect(&view).unwrap()
}

fn fingerprints(found: &Inspected, body: &[u8]) -> fingerprint::Fingerprints {
    let asked = Asked {
        channel: found.operation.channel,
        surface: found.operation.surface,
        route: "openai",
        method: "POST",
        path: PATH,
        query: None,
        headers: &HEADERS,
        body,
        json: found.json.as_ref(),
    };
    fingerprint::of(&asked, &Matching::default())
}

fn bench(criterion: &mut Criterion) {
    for kilobytes in support::SIZES_KB {
        let body = support::Chat::new(kilobytes, true).turn(1);
        let found = inspect(&body);
        let mut group = criterion.benchmark_group(format!("{kilobytes} KB"));
        group.throughput(Throughput::Bytes(u64::try_from(body.len()).unwrap()));
        group.bench_function("inspect", |bencher| bencher.iter(|| inspect(black_box(&body))));
        group.bench_function("fingerprints", |bencher| {
            bencher.iter(|| fingerprints(black_box(&found), black_box(&body)));
        });
        group.bench_function("inspect and fingerprints", |bencher| {
            bencher.iter(|| fingerprints(&inspect(black_box(&body)), &body));
        });
        group.bench_function("BLAKE3 of the raw bytes", |bencher| {
            bencher.iter(|| blake3::hash(black_box(&body)));
        });
        group.finish();
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
