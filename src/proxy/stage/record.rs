//! Carries an open step to its outcome: waits for its intent, sends it, reads the answer, and releases
//! the end of the answer only when the outcome is durable. Every way out writes what is known.

use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use http::header::CONTENT_ENCODING;

use crate::failpoint::{Defect, Point, is_broken, reach};
use crate::journal::{self, Batch, Body, Completed, FailedAnswer, Record, Ticket, Urgency, Words};
use crate::model::{CallKind, EffectClass, FailureClass, InDoubt, Source, StepIndex, StepState, Usage};
use crate::proxy::answer_body::AnswerBody;
use crate::proxy::call::Call;
use crate::proxy::feed::Feed;
use crate::proxy::headers;
use crate::proxy::refusal;
use crate::proxy::run::Run;
use crate::proxy::setbacks;
use crate::proxy::sidecar::{JournalUnavailable, Sidecar};
use crate::telemetry::event::StepEvent;
use crate::upstream;
use crate::wire::refusal::Refusal;
use crate::wire::{mcp, status};

use super::authorize::Grant;
use super::dress;
use super::fetch::{self, Broken, Fetched, Outbound};
use super::open::OpenStep;
use super::recall::Asked;
use super::session;

/// Runs in a task of the sidecar, from the intent to the outcome.
pub(crate) async fn carry(sidecar: Arc<Sidecar>, open: OpenStep, mut call: Call, asked: Asked) {
    let OpenStep { run, step, tried, possibly_billed, feed, intent, request, key, is_keyed, class, grant } =
        open;
    let grant = grant.as_ref();
    let asked = Asked { class, ..asked };
    let begun = sidecar.clock.now();
    let ends = Ends { run: &run, feed: &feed, step };
    let told = match dress::call(&sidecar, &mut call, request, key).await {
        Ok(()) => {
            let (run, feed, call) = (&run, &feed, &call);
            let work = Work {
                sidecar: &sidecar,
                run,
                feed,
                call,
                asked,
                step,
                tried,
                possibly_billed,
                is_keyed,
                grant,
            };
            work.run(intent).await
        }
        Err(refusal) => {
            // What it was is lost: nothing else may be sent in its place.
            feed.refuse(refusal);
            Told::only(StepState::Refused)
        }
    };
    drop(ends);
    sidecar.metrics.step(&StepEvent {
        kind: asked.kind,
        source: Source::Live,
        state: told.state,
        usage: told.usage,
        usage_missing: told.usage_missing,
        duration_ms: sidecar.clock.now().since_ms(begun),
    });
}

/// What a step came to, for telemetry.
#[derive(Debug)]
struct Told {
    state: StepState,
    usage: Option<Usage>,
    usage_missing: bool,
}

impl Told {
    fn only(state: StepState) -> Self {
        Self { state, usage: None, usage_missing: false }
    }
}

struct Work<'a> {
    sidecar: &'a Arc<Sidecar>,
    run: &'a Arc<Run>,
    feed: &'a Arc<Feed>,
    call: &'a Call,
    asked: Asked,
    step: StepIndex,
    tried: u32,
    possibly_billed: bool,
    /// Sent under a key that the tool honours: sending it again is safe.
    is_keyed: bool,
    grant: Option<&'a Grant>,
}

/// A call that was not sent, for a reason of ours.
fn held(why: &str) -> upstream::Error {
    upstream::Error { class: FailureClass::Reset, not_sent: true, tls: false, detail: why.to_owned() }
}

/// Ends a step that a defect of ours left without an end: its agents would wait for ever.
struct Ends<'a> {
    run: &'a Run,
    feed: &'a Feed,
    step: StepIndex,
}

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        // Does nothing where the end has been said.
        self.feed.refuse(refusal::internal());
        // Only now may an equal request be answered from the journal instead of joining.
        let mut state = self.run.state.lock();
        state.running.remove(&self.step);
        state.dialogues.end(self.step, self.feed.event_ids());
    }
}

/// The answer that the agent is given although it is no result.
fn failed_answer(fetched: &Fetched, body: Body) -> (FailedAnswer, Body) {
    let answer = FailedAnswer {
        status: fetched.start.status.as_u16(),
        headers: headers::recorded(&fetched.start.headers),
        body: body.hash,
        body_len: body.bytes.len() as u64,
    };
    (answer, body)
}

/// A try that came to nothing.
struct Failure {
    class: FailureClass,
    status: Option<u16>,
    not_sent: bool,
    detail: String,
}

impl Work<'_> {
    async fn run(&self, intent: Ticket) -> Told {
        if self.asked.class != EffectClass::Read
            && !is_broken(Defect::IntentAfterDispatch)
            && let Err(told) = self.may_leave(intent).await
        {
            return told;
        }
        let mut outbound = fetch::outbound(self.call);
        reach(Point::CallLeaving);
        let response = match self.send(&mut outbound).await {
            Ok(response) => response,
            Err(broken) => return self.broken(broken).await,
        };
        reach(Point::AnswerBegun);
        match fetch::read(self.sidecar, self.call, &outbound, response, self.feed).await {
            Ok(fetched) => self.ended(fetched).await,
            Err(broken) => self.broken(broken).await,
        }
    }

    /// Waits until a call that acts may be sent. `Err`: it may not, and the agent has been told so.
    async fn may_leave(&self, intent: Ticket) -> Result<(), Told> {
        // INVARIANT: the intent of an effect is durable before its first byte leaves; a read's may ride. So is
        // that of an idempotent call: what is sent again are the recorded bytes.
        if let Err(error) = self.durable(intent).await {
            self.run.state.lock().unwritten.insert(self.step);
            self.feed.refuse(refusal::journal(&error));
            return Err(Told::only(StepState::Refused));
        }
        reach(Point::IntentDurable);
        if let Err(error) = self.wait_for_callers().await {
            return Err(self.broken(Broken::Upstream(error)).await);
        }
        // An owner that was taken over meanwhile sends nothing: an empty commit asks without writing.
        let journal = &self.sidecar.journal;
        let asked = journal.commit(&self.run.key, journal.epoch(), Batch::default(), Urgency::Ride);
        if let Err(error) = asked {
            self.feed.refuse(refusal::journal(&error));
            return Err(Told::only(StepState::Refused));
        }
        Ok(())
    }

    /// Some agents start a tool as soon as its arguments are there, while the model still streams. If that
    /// answer is lost, the agent asks again, gets another one and calls something else besides; so the call
    /// waits for the answer's outcome, and is not sent without one.
    async fn wait_for_callers(&self) -> Result<(), upstream::Error> {
        let ending = self.sidecar.tasks.ending();
        tokio::pin!(ending);
        loop {
            let caller = {
                let state = self.run.state.lock();
                let calling = state.running.iter().find(|(_, feed)| feed.calls_tools());
                calling.map(|(step, feed)| (*step, Arc::clone(feed)))
            };
            let Some((step, feed)) = caller else { return Ok(()) };
            tokio::select! {
                () = feed.ended() => {}
                () = &mut ending => return Err(held("the sidecar stopped")),
                () = tokio::time::sleep(self.call.upstream.idle) => {
                    return Err(held("the model's answer that calls this tool does not end"));
                }
            }
            let outcome = self.sidecar.journal.step(&self.run.key, step);
            let completed =
                outcome.is_ok_and(|step| step.is_some_and(|step| step.summary.state == StepState::Completed));
            if !completed {
                return Err(held("the model's answer that calls this tool broke off"));
            }
            // The step leaves the running ones right after its feed has ended.
            tokio::task::yield_now().await;
        }
    }

    async fn durable(&self, ticket: Ticket) -> Result<(), journal::Error> {
        let from = self.sidecar.clock.since_boot();
        let done = ticket.await;
        self.sidecar.metrics.commit(self.sidecar.clock.since_boot().saturating_sub(from));
        done
    }

    /// Up to the head of the answer; a dead MCP session is opened again once.
    async fn send(&self, outbound: &mut Outbound) -> Result<Response<AnswerBody>, Broken> {
        if self.sidecar.tasks.is_ending() {
            return Err(Broken::Upstream(held("the sidecar stopped")));
        }
        let sending = async {
            let used = session::put(self.sidecar, self.run, self.call, &mut outbound.headers).await?;
            let response = fetch::send(self.call, outbound, self.asked.class).await?;
            if !session::is_dead(&response, used.as_ref()) {
                return Ok(response);
            }
            session::renew(self.sidecar, self.run, self.call, used.as_ref(), &mut outbound.headers).await?;
            fetch::send(self.call, outbound, self.asked.class).await
        };
        tokio::select! {
            sent = sending => sent.map_err(Broken::Upstream),
            () = fetch::deserted(self.sidecar, self.feed, self.call.upstream.drain) => Err(Broken::Deserted),
            () = self.sidecar.tasks.ending() => Err(Broken::Stopping),
        }
    }

    async fn ended(&self, fetched: Fetched) -> Told {
        let code = fetched.start.status.as_u16();
        let failure = if !status::is_result(code) {
            let detail = format!("the upstream answered {code}");
            Some(Failure { class: FailureClass::Status, status: Some(code), not_sent: false, detail })
        } else {
            let failed = fetched.outcome.failed.as_ref();
            failed.map(|detail| Failure {
                class: FailureClass::Cut,
                status: Some(code),
                not_sent: false,
                detail: format!("{}: {}", detail.kind, detail.message),
            })
        };
        match failure {
            Some(failure) => {
                let answer = fetched.recorded.clone().map(|body| failed_answer(&fetched, Body::whole(body)));
                let doubt = self.leaves_doubt(&failure);
                let state = self.note_failure(failure, doubt, answer, None).await;
                self.release(fetched);
                Told::only(state)
            }
            None if fetched.outcome.asks_input => self.ask_input(fetched).await,
            None => self.complete(fetched).await,
        }
    }

    /// The tool wants something first. That is no outcome: what it asks for will not be asked again under the
    /// same state, so a restarted agent sends its first leg anew.
    async fn ask_input(&self, fetched: Fetched) -> Told {
        let at = self.sidecar.clock.now();
        let asks = Record::InputRequired { step: self.step, tried: self.tried, at };
        match self.commit(Batch::one(asks), Urgency::Now).await {
            Ok(()) => {
                self.run.state.lock().take_note(&[Record::InputRequired {
                    step: self.step,
                    tried: self.tried,
                    at,
                }]);
                self.release(fetched);
                Told::only(StepState::Open)
            }
            Err(error) => {
                tracing::error!(workflow = %self.run.key, step = %self.step, %error, "a request for input cannot be recorded");
                self.feed.refuse(self.unrecorded(&error));
                Told::only(StepState::InDoubt)
            }
        }
    }

    async fn complete(&self, fetched: Fetched) -> Told {
        let usage = fetched.outcome.usage;
        let usage_missing =
            self.asked.kind == CallKind::Llm && usage.is_none() && fetched.start.status.is_success();
        if is_broken(Defect::EndReleasedFirst) {
            self.feed.release(fetched.start.clone(), fetched.held.clone());
        }
        reach(Point::OutcomeComing);
        let batch = self.completed(&fetched);
        let told = batch.records.clone();
        match self.commit(batch, Urgency::Now).await {
            Ok(()) => {
                reach(Point::OutcomeDurable);
                self.run.state.lock().take_note(&told);
                self.release(fetched);
                reach(Point::EndReleased);
                Told { state: StepState::Completed, usage, usage_missing }
            }
            Err(error) => {
                tracing::error!(workflow = %self.run.key, step = %self.step, %error, "an outcome cannot be recorded");
                let passes = self.sidecar.snapshot().journal_unavailable == JournalUnavailable::Passthrough;
                if passes && self.asked.class != EffectClass::Effect {
                    self.release(fetched);
                    return Told { state: StepState::Failed, usage, usage_missing };
                }
                // INVARIANT: no end of an answer without a durable outcome.
                self.feed.refuse(self.unrecorded(&error));
                Told { state: StepState::InDoubt, usage, usage_missing }
            }
        }
    }

    fn unrecorded(&self, error: &journal::Error) -> Refusal {
        match self.asked.class {
            EffectClass::Effect => self.in_doubt(),
            EffectClass::Idempotent | EffectClass::Read => refusal::journal(error),
        }
    }

    fn in_doubt(&self) -> Refusal {
        refusal::in_doubt(self.step, &self.call.inspected.operation.name, self.call.upstream.name.as_str())
    }

    fn completed(&self, fetched: &Fetched) -> Batch {
        let served = fetched.outcome.mcp_response.clone().or_else(|| fetched.recorded.clone());
        let body = Body::whole(served.clone().unwrap_or_default());
        let mut headers = fetched.start.headers.clone();
        if fetched.outcome.mcp_response.is_some() {
            // The response alone is kept, and it is kept plain.
            headers.remove(CONTENT_ENCODING);
        }
        let completed = Completed {
            step: self.step,
            status: fetched.start.status.as_u16(),
            headers: headers::recorded(&headers),
            body: body.hash,
            body_len: body.bytes.len() as u64,
            body_dropped: served.is_none(),
            usage: fetched.outcome.usage,
            finish_reason: fetched.outcome.finish_reason.clone(),
            announced: fetched.outcome.announced.clone(),
            is_error: fetched.outcome.is_error,
            possibly_billed: self.possibly_billed,
            tried: self.tried,
            at: self.sidecar.clock.now(),
        };
        let proved = self.grant.and_then(|grant| {
            let structured = self.structured(fetched);
            grant.prove(structured.as_deref(), (self.step, completed.at))
        });
        let records = [Record::Completed(completed)].into_iter().chain(proved).collect();
        Batch { records, bodies: vec![body] }
    }

    /// The tool's result as JSON, where it is one and no error: what facts can come from.
    fn structured(&self, fetched: &Fetched) -> Option<Bytes> {
        if fetched.outcome.is_error || !fetched.start.status.is_success() {
            return None;
        }
        match &fetched.outcome.mcp_response {
            Some(response) => mcp::structured(response),
            None => fetched.recorded.clone().filter(|_| self.asked.kind == CallKind::Http),
        }
    }

    /// Hands the end of the answer to the agent.
    fn release(&self, fetched: Fetched) {
        self.feed.release(fetched.start, fetched.held);
    }

    async fn broken(&self, broken: Broken) -> Told {
        let error = match broken {
            Broken::Upstream(error) => error,
            Broken::Endless => upstream::Error::early(FailureClass::Cut, fetch::ENDLESS),
            Broken::Cut(cut) => upstream::Error::early(FailureClass::Cut, cut.to_string()),
            Broken::Deserted => upstream::Error::early(
                FailureClass::Timeout,
                "the agent left and the time to read on was over",
            ),
            Broken::Stopping => upstream::Error::early(FailureClass::Reset, "the sidecar stopped"),
            Broken::Unread => upstream::Error::early(
                FailureClass::Timeout,
                "the agent did not read on, and the answer is too long to be kept for it",
            ),
        };
        tracing::warn!(
            workflow = %self.run.key, step = %self.step, upstream = %self.call.upstream.name,
            class = error.class.as_str(), detail = error.detail, "a try failed"
        );
        let said = refusal::upstream_failed(&self.call.upstream.name, &error);
        let upstream::Error { class, not_sent, detail, .. } = error;
        let failure = Failure { class, status: None, not_sent, detail };
        let doubt = self.leaves_doubt(&failure);
        let said = if doubt { self.in_doubt() } else { said };
        let state = self.note_failure(failure, doubt, None, Some(setbacks::words(&said))).await;
        let last_words = refusal::last_words(&said, &self.call.inspected, self.call.upstream.dialect);
        self.feed.break_off(said, last_words);
        Told::only(state)
    }

    /// What the tool's rule says of the status: whether it proves that nothing was carried out.
    fn not_executed(&self, failure: &Failure) -> Option<bool> {
        let statuses = self.call.rule.as_deref().and_then(|rule| rule.not_executed.as_ref());
        statuses.zip(failure.status).map(|(statuses, status)| statuses.contains(&status))
    }

    /// Whether an effect may have happened that must not be repeated.
    fn leaves_doubt(&self, failure: &Failure) -> bool {
        let by_default = failure.status.is_some_and(status::is_not_executed);
        let executed = !failure.not_sent && !self.not_executed(failure).unwrap_or(by_default);
        let takes_repeats = self.call.rule.as_deref().is_some_and(|rule| rule.in_doubt == InDoubt::Retry);
        executed && self.asked.class == EffectClass::Effect && !self.is_keyed && !takes_repeats
    }

    /// Records a failed try and what the agent is told of it; an effect that may have happened becomes in
    /// doubt, durably, before anybody learns of the failure.
    async fn note_failure(
        &self,
        failure: Failure,
        doubt: bool,
        answer: Option<(FailedAnswer, Body)>,
        words: Option<Words>,
    ) -> StepState {
        self.sidecar.metrics.upstream_failure(failure.class);
        let at = self.sidecar.clock.now();
        let not_executed = self.not_executed(&failure);
        let cause = failure.detail.clone();
        let (answer, body) = answer.unzip();
        if let Some(live) = &mut self.run.state.lock().attempt {
            live.failed.insert(self.step);
        }
        let failed = Record::Failed {
            step: self.step,
            tried: self.tried,
            class: failure.class,
            status: failure.status,
            not_sent: failure.not_sent,
            detail: failure.detail,
            at,
            not_executed,
            answer,
            words,
        };
        let in_doubt = doubt.then_some(Record::InDoubt { step: self.step, cause, at });
        let records: Vec<_> = [failed].into_iter().chain(in_doubt).collect();
        let told = records.clone();
        let batch = Batch { records, bodies: body.into_iter().collect() };
        let urgency = if self.asked.class == EffectClass::Effect { Urgency::Now } else { Urgency::Ride };
        reach(Point::FailureComing);
        // A failure that cannot be recorded leaves an open intent, which is in doubt for an effect as well.
        if let Err(error) = self.commit(batch, urgency).await {
            tracing::error!(workflow = %self.run.key, step = %self.step, %error, "a failure cannot be recorded");
        }
        reach(Point::FailureRecorded);
        self.run.state.lock().take_note(&told);
        if doubt { StepState::InDoubt } else { StepState::Failed }
    }

    async fn commit(&self, mut batch: Batch, urgency: Urgency) -> Result<(), journal::Error> {
        let journal = &self.sidecar.journal;
        let ticket = {
            let mut state = self.run.state.lock();
            // Notes keep their place among the workflow's records; without any nobody has to wait.
            let _in_order = if state.notes.is_empty() {
                None
            } else {
                batch.records = state.with_notes(batch.records);
                Some(state)
            };
            journal.commit(&self.run.key, journal.epoch(), batch, urgency)?
        };
        match urgency {
            Urgency::Now => self.durable(ticket).await,
            Urgency::Ride => Ok(()),
        }
    }
}
