//! Why a restart did not replay, as the command line tells it.

use serde_json::{Value, json};

use crate::support::cli;
use crate::support::client::Ask;
use crate::support::llm::Api;
use crate::support::sidecar::{Setup, Sidecar};
use crate::support::upstream::{Script, Upstream};

fn start(model: &Upstream) -> Sidecar {
    Setup::new().upstream("openai", "openai", &model.url()).start()
}

fn model() -> Upstream {
    Upstream::start(|request| Script::json(Api::OpenaiChat.answer(&format!("answer {}", request.count))))
}

fn ask(attempt: usize, body: &Value) -> Ask {
    Ask::post(format!("/w/w/a/{attempt}/openai/v1/chat/completions"), body.to_string())
}

fn dated(date: &str, temperature: f64) -> Value {
    json!({"model": "gpt-5", "temperature": temperature,
        "messages": [{"role": "system", "content": format!("hunter2, today is {date}")}]})
}

#[test]
fn the_same_is_told_by_a_running_sidecar_and_from_the_journal_of_a_dead_one() {
    let model = model();
    let mut sidecar = start(&model);
    sidecar.call(&ask(1, &dated("2026-11-20", 0.5))).expect(200, "live");
    sidecar.call(&ask(2, &dated("2026-11-21", 0.5))).expect(200, "live");
    let config = sidecar.config().to_str().unwrap().to_owned();
    let doctor = |words: &[&str]| {
        let words: Vec<&str> = ["doctor", "w", "--config", &config].iter().chain(words).copied().collect();
        cli::run(&words).expect_code(0).stdout
    };
    let told = |doctor: &dyn Fn(&[&str]) -> String| {
        [doctor(&[]), doctor(&["--json", "--show-values", "--attempts", "1,2"])]
    };
    let running = told(&doctor);
    assert!(sidecar.stop().success());
    assert_eq!(told(&doctor), running);

    let [text, report] = running;
    for part in [
        "step 1 was asked for as step 2",
        "/messages/0/content",
        "a date differs",
        "regex: '",
        "owner `local`",
    ] {
        assert!(text.contains(part), "no {part:?} in:\n{text}");
    }
    assert!(!text.contains("hunter2") && !text.contains("2026-11-2"), "values are shown:\n{text}");
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["attempts"], json!([1, 2]));
    let difference = &report["pairs"][0]["differences"][0];
    assert_eq!(difference["asked_value"], "\"hunter2, today is 2026-11-21\"");
    assert_eq!(report["proposals"][0]["match"]["scrubs"][0]["pointer"], "/messages/0/content");
}

#[test]
fn the_printed_config_can_be_pasted() {
    let model = model();
    let sidecar = start(&model);
    sidecar.call(&ask(1, &dated("2026-11-20", 0.5))).expect(200, "live");
    sidecar.call(&ask(2, &dated("2026-11-21", 0.5))).expect(200, "live");
    let text = sidecar.cli(&["doctor", "w"]).expect_code(0).stdout;
    let begin = text.find("upstreams:\n").unwrap();
    let end = begin + text[begin..].find("\n\n").unwrap() + 1;
    let upstream = "  openai:\n    dialect: openai\n    url: https://api.openai.com\n";
    let pasted = text[begin..end].replace("  openai:\n", upstream);
    let path = sidecar.home().join("pasted.yaml");
    std::fs::write(&path, &pasted).unwrap();
    cli::run(&["check", "--config", path.to_str().unwrap()]).expect_code(0);
    assert!(pasted.contains("match:\n      scrubs:\n"), "{pasted}");
}

#[test]
fn what_is_no_noise_is_said_to_be_none() {
    let model = model();
    let sidecar = start(&model);
    sidecar.call(&ask(1, &dated("2026-11-20", 0.5))).expect(200, "live");
    sidecar.call(&ask(2, &dated("2026-11-20", 0.6))).expect(200, "live");
    let output = sidecar.cli(&["doctor", "w"]).expect_code(0);
    let output = output.prints(&["/temperature: a setting of the call; nothing to scrub", "not the same"]);
    assert!(!output.stdout.contains("match:"), "{output:?}");
}

#[test]
fn what_cannot_be_compared_is_said_so() {
    let model = model();
    let mut sidecar = start(&model);
    sidecar.call(&ask(1, &dated("2026-11-20", 0.5))).expect(200, "live");
    for _ in 0..2 {
        sidecar.cli(&["doctor", "elsewhere"]).expect_code(3).says(&["OG5006"]);
        sidecar.cli(&["doctor", "no id"]).expect_code(2).says(&["OG1001"]);
        sidecar.cli(&["doctor", "w", "--attempts", "1,2"]).expect_code(3).says(&["OG5017", "no attempt 2"]);
        sidecar.cli(&["doctor", "w", "--attempts", "1,1"]).expect_code(3).says(&["OG5017", "twice"]);
        sidecar.cli(&["doctor", "w", "--attempts", "1"]).expect_code(2).says(&["two numbers"]);
        let one = sidecar.cli(&["doctor", "w"]).expect_code(0);
        one.prints(&["one attempt only", "owner `local`"]);
        if sidecar.is_running() {
            let bad = sidecar.ask_admin(&Ask::get("/v1/workflows/w/doctor?atempts=1,2"));
            assert_eq!(bad.status, 400, "{bad:?}");
            assert!(sidecar.stop().success());
        }
    }
}

#[test]
fn a_restart_that_replayed_has_no_differences() {
    let model = model();
    let sidecar = start(&model);
    sidecar.call(&ask(1, &dated("2026-11-20", 0.5))).expect(200, "live");
    sidecar.call(&ask(2, &dated("2026-11-20", 0.5))).expect(200, "replay");
    sidecar
        .cli(&["doctor", "w"])
        .expect_code(0)
        .prints(&["1 call found what is recorded", "no difference was found"]);
}
