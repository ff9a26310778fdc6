//! Prometheus metrics. Labels come from closed sets only: nothing an agent sent becomes a label.

use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    TextEncoder,
};

use crate::model::{FailureClass, Source, Usage};

use super::event::StepEvent;

/// All metrics of one sidecar, each named once, here.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    steps: IntCounterVec,
    step_seconds: HistogramVec,
    tokens: IntCounterVec,
    tokens_saved: IntCounterVec,
    usage_missing: IntCounter,
    refusals: IntCounterVec,
    upstream_failures: IntCounterVec,
    commit_seconds: Histogram,
    connections: IntGauge,
    held: IntGauge,
    running: IntGauge,
    live_workflows: IntGauge,
    ready: IntGauge,
    journal_bytes: IntGauge,
    journal_bytes_max: IntGauge,
    oldest_open_s: IntGauge,
}

impl Metrics {
    /// # Errors
    /// When two metrics have one name, which a test excludes.
    pub fn new(version: &str, durability: &str) -> prometheus::Result<Self> {
        let registry = Registry::new();
        let info = Opts::new("outrigger_build_info", "Always 1; its labels say what runs.")
            .const_label("version", version)
            .const_label("journal_durability", durability);
        let info = IntGauge::with_opts(info)?;
        info.set(1);
        registry.register(Box::new(info))?;
        let counters = |name: &str, help: &str, labels: &[&str]| -> prometheus::Result<IntCounterVec> {
            let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counters.clone()))?;
            Ok(counters)
        };
        let gauge = |name: &str, help: &str| -> prometheus::Result<IntGauge> {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let step_seconds = HistogramVec::new(
            HistogramOpts::new("outrigger_step_seconds", "Time from a step's intent to its durable outcome.")
                .buckets(vec![0.005, 0.02, 0.1, 0.5, 1.0, 2.0, 5.0, 15.0, 60.0, 300.0]),
            &["kind", "source"],
        )?;
        registry.register(Box::new(step_seconds.clone()))?;
        let commit_seconds = Histogram::with_opts(
            HistogramOpts::new("outrigger_journal_commit_seconds", "Wait for a durable commit.")
                .buckets(vec![0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2.0]),
        )?;
        registry.register(Box::new(commit_seconds.clone()))?;
        let usage_missing = IntCounter::new(
            "outrigger_usage_missing_total",
            "Model answers that did not report their usage.",
        )?;
        registry.register(Box::new(usage_missing.clone()))?;
        Ok(Self {
            steps: counters(
                "outrigger_steps_total",
                "Calls by kind, source and outcome.",
                &["kind", "source", "state"],
            )?,
            step_seconds,
            tokens: counters("outrigger_tokens_total", "Tokens of live calls, as reported.", &["direction"])?,
            tokens_saved: counters(
                "outrigger_tokens_saved_total",
                "Tokens of replayed calls.",
                &["direction"],
            )?,
            usage_missing,
            refusals: counters("outrigger_refusals_total", "Calls refused by the sidecar.", &["code"])?,
            upstream_failures: counters("outrigger_upstream_failures_total", "Failed tries.", &["class"])?,
            commit_seconds,
            connections: gauge("outrigger_connections", "Open connections of agents.")?,
            held: gauge("outrigger_calls_held", "Calls in doubt that wait for somebody to resolve them.")?,
            running: gauge("outrigger_steps_running", "Steps and streams at work.")?,
            live_workflows: gauge("outrigger_workflows_live", "Workflows held in memory.")?,
            ready: gauge("outrigger_ready", "1 while new steps are accepted.")?,
            journal_bytes: gauge("outrigger_journal_bytes", "What the journal takes on disk.")?,
            journal_bytes_max: gauge(
                "outrigger_journal_bytes_max",
                "What the journal may take on disk; 0: as much as there is.",
            )?,
            oldest_open_s: gauge(
                "outrigger_workflow_oldest_open_seconds",
                "Age of the oldest workflow that is not closed, as of the last sweep.",
            )?,
            registry,
        })
    }

    pub fn step(&self, event: &StepEvent) {
        let (kind, source) = (event.kind.as_str(), event.source.as_str());
        self.steps.with_label_values(&[kind, source, event.state.as_str()]).inc();
        #[expect(clippy::cast_precision_loss, reason = "milliseconds of one step fit in 52 bits")]
        self.step_seconds.with_label_values(&[kind, source]).observe(event.duration_ms as f64 / 1000.0);
        if event.usage_missing {
            self.usage_missing.inc();
        }
        let counters = if event.source == Source::Replay { &self.tokens_saved } else { &self.tokens };
        if let Some(Usage { input, output, .. }) = event.usage.filter(|_| event.source != Source::Join) {
            counters.with_label_values(&["input"]).inc_by(input.unwrap_or(0));
            counters.with_label_values(&["output"]).inc_by(output.unwrap_or(0));
        }
    }

    /// `code` is one of the `OGnnnn` codes.
    pub fn refusal(&self, code: &str) {
        self.refusals.with_label_values(&[code]).inc();
    }

    pub fn upstream_failure(&self, class: FailureClass) {
        self.upstream_failures.with_label_values(&[class.as_str()]).inc();
    }

    pub fn commit(&self, waited: std::time::Duration) {
        self.commit_seconds.observe(waited.as_secs_f64());
    }

    pub fn connection_opened(&self) {
        self.connections.inc();
    }

    /// So many more calls are held, or fewer.
    pub fn held(&self, change: i64) {
        self.held.add(change);
    }

    pub fn connection_closed(&self) {
        self.connections.dec();
    }

    /// Text exposition format 0.0.4 of everything, with these gauges as of now.
    ///
    /// # Errors
    /// When the text cannot be written, which has no known cause.
    pub fn render(&self, now: Gauges) -> prometheus::Result<String> {
        self.running.set(now.running);
        self.live_workflows.set(now.live_workflows);
        self.ready.set(i64::from(now.ready));
        self.journal_bytes.set(now.journal_bytes);
        self.journal_bytes_max.set(now.journal_bytes_max);
        self.oldest_open_s.set(now.oldest_open_s);
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

/// Values that are read, not counted.
#[derive(Clone, Copy, Debug)]
pub struct Gauges {
    pub journal_bytes: i64,
    /// 0: no limit is set.
    pub journal_bytes_max: i64,
    pub oldest_open_s: i64,
    pub running: i64,
    pub live_workflows: i64,
    pub ready: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{CallKind, StepState};

    #[test]
    fn replayed_tokens_are_counted_as_saved_and_never_as_used() {
        let metrics = Metrics::new("1", "none").unwrap();
        let usage = Some(Usage { input: Some(7), output: Some(3), ..Usage::default() });
        let live = StepEvent {
            kind: CallKind::Llm,
            source: Source::Live,
            state: StepState::Completed,
            usage,
            usage_missing: false,
            duration_ms: 12,
        };
        for source in [Source::Live, Source::Replay, Source::Replay, Source::Join] {
            metrics.step(&StepEvent { source, ..live });
        }
        let now = Gauges {
            journal_bytes: 8,
            journal_bytes_max: 10,
            oldest_open_s: 3600,
            running: 1,
            live_workflows: 2,
            ready: true,
        };
        let text = metrics.render(now).unwrap();
        for line in [
            r#"outrigger_tokens_total{direction="input"} 7"#,
            r#"outrigger_tokens_saved_total{direction="output"} 6"#,
            r#"outrigger_steps_total{kind="llm",source="replay",state="completed"} 2"#,
            "outrigger_ready 1",
            "outrigger_journal_bytes 8",
            "outrigger_journal_bytes_max 10",
            "outrigger_workflow_oldest_open_seconds 3600",
        ] {
            assert!(text.lines().any(|found| found == line), "no line {line} in:\n{text}");
        }
    }
}
