//! Two owners of one journal. On an engine that can refuse an old epoch the new one takes over from one that is
//! merely slow; the embedded engine cannot be opened twice.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, RwLock};

use outrigger::app::{self, Running, SystemClock};
use outrigger::config::{self, Env, Listen};
use outrigger::journal::memory::Memory;
use rustix::process::Signal;
use tokio::runtime::Runtime;

use crate::support::cli;
use crate::support::client::{self, Answer, Ask, Client};
use crate::support::gate::Gate;
use crate::support::random::{Random, seed};
use crate::support::sidecar::Setup;
use crate::support::table::{self, Table};
use crate::support::upstream::{Request, Upstream};
use crate::support::wait;

/// Owners of the journal in the storm, one after the other.
const OWNERS: usize = 24;
const AGENTS: usize = 4;
const CALLS: usize = 6;

#[derive(Debug)]
struct NoEnv;

impl Env for NoEnv {
    fn var(&self, _: &str) -> Result<String, std::env::VarError> {
        Err(std::env::VarError::NotPresent)
    }
}

/// A sidecar in this process, on a journal in memory that another may take over.
struct Owner {
    journal: Memory,
    address: SocketAddr,
    _running: Running,
    runtime: Runtime,
}

impl Owner {
    fn start(journal: Memory, upstream: &Upstream) -> Self {
        let yaml = format!(
            "listen: [{{ address: \"127.0.0.1:0\" }}]\nadmin: {{ address: \"127.0.0.1:0\" }}\n\
             upstreams: {{ crm: {{ dialect: http, url: \"{}\" }} }}\n",
            upstream.url()
        );
        let settings = config::load_text("the test's config", &yaml, &NoEnv).unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let started = app::start_with_journal(settings, Arc::new(journal.clone()));
        let running = runtime.block_on(started).unwrap();
        let [Listen::Tcp(address)] = running.listen() else { panic!("{:?}", running.listen()) };
        Self { journal, address: *address, _running: running, runtime }
    }

    fn first(upstream: &Upstream) -> Self {
        Self::start(Memory::new(Arc::new(SystemClock)), upstream)
    }

    fn taken_over(&self, upstream: &Upstream) -> Self {
        Self::start(self.journal.take_over(), upstream)
    }

    fn call(&self, ask: &Ask) -> Answer {
        client::call(self.address, ask)
    }

    fn end(self) {
        self.runtime.shutdown_background();
    }
}

fn charge(attempt: usize, invoice: usize) -> Ask {
    Ask::post(format!("/w/w/a/{attempt}/crm/charges"), format!(r#"{{"invoice":{invoice}}}"#))
}

fn charged(upstream: &Upstream, invoice: usize) -> usize {
    let body = format!(r#"{{"invoice":{invoice}}}"#);
    upstream.requests().iter().filter(|request| request.text() == body).count()
}

#[test]
fn case_8_an_owner_that_was_taken_over_appends_nothing_and_sends_nothing() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::start(move |request| {
        let script = super::counted(request);
        if request.text().contains(":2}") && request.nth == 2 { script.held(&held) } else { script }
    });
    let old = Owner::first(&upstream);
    let first = old.call(&charge(1, 1)).expect(200, "live");
    // It is stopped with a charge under way, and another one takes over.
    let mut waiting = Client::connect(old.address);
    waiting.send(&charge(1, 2));
    gate.reached(1);
    let new = old.taken_over(&upstream);
    assert_eq!(new.call(&charge(2, 1)).expect(200, "replay").body, first.body);
    let doubt = new.call(&charge(2, 2));
    assert!(doubt.status == 422 && doubt.text().contains("OG3001"), "{doubt:?}");
    // It wakes.
    gate.open();
    let late = waiting.read("POST");
    assert!(late.as_ref().is_ok_and(|answer| answer.status != 200) || late.is_err(), "{late:?}");
    for attempt in [1, 2, 3] {
        let refused = old.call(&charge(attempt, 3));
        assert_ne!(refused.status, 200, "attempt {attempt}: {refused:?}");
    }
    let stale = old.call(&charge(1, 1));
    assert_ne!(stale.status, 200, "not even what is recorded: {stale:?}");
    assert_eq!([1, 2, 3].map(|invoice| charged(&upstream, invoice)), [1, 1, 0]);
    let still = new.call(&charge(2, 2));
    assert!(
        still.text().contains("OG3001"),
        "the old owner's answer came too late to be recorded: {still:?}"
    );
    old.end();
    new.end();
}

/// What an agent of the storm knows.
#[derive(Default)]
struct Known {
    answers: Vec<String>,
    doubt: bool,
}

fn path(agent: usize, attempt: usize, owner: usize, call: usize) -> Ask {
    Ask::post(
        format!("/w/storm-{agent}-{owner}/a/{attempt}/crm/charges"),
        format!(r#"{{"key":"{agent}-{owner}-{call}."}}"#),
    )
}

#[test]
fn case_8_a_storm_of_takeovers_repeats_no_effect_and_loses_no_answer() {
    let seed = seed("OUTRIGGER_TEST_SEED");
    let owners = table::number("OUTRIGGER_PROOF_OWNERS", OWNERS);
    let counts: Arc<Mutex<HashMap<String, usize>>> = Arc::default();
    let counted = Arc::clone(&counts);
    let upstream = Upstream::start(move |request: &Request| {
        *counted.lock().unwrap().entry(request.text()).or_default() += 1;
        super::counted(request)
    });
    let all = RwLock::new(vec![Owner::first(&upstream)]);
    let mut refused = 0;
    let mut known: HashMap<(usize, usize), Known> = HashMap::new();
    for owner in 0..owners {
        let results: Vec<_> = std::thread::scope(|scope| {
            let at_work: Vec<_> = (0..AGENTS)
                .map(|agent| {
                    let all = &all;
                    scope.spawn(move || {
                        storm(all, agent, owner, Random::new(seed + (agent * 1000 + owner) as u64))
                    })
                })
                .collect();
            let next = all.read().unwrap().last().unwrap().taken_over(&upstream);
            all.write().unwrap().push(next);
            at_work.into_iter().map(|agent| agent.join().unwrap()).collect()
        });
        for (agent, (one, turned_away)) in results.into_iter().enumerate() {
            refused += turned_away;
            known.insert((agent, owner), one);
        }
    }
    assert!(counts.lock().unwrap().values().all(|count| *count == 1), "an effect was carried out twice");
    let all = all.into_inner().unwrap();
    let newest = all.last().unwrap();
    let mut replayed = 0;
    for ((agent, owner), known) in &known {
        for (call, text) in known.answers.iter().enumerate() {
            let answer = newest.call(&path(*agent, 9, *owner, call)).expect(200, "replay");
            assert_eq!(answer.text(), *text);
            replayed += 1;
        }
    }
    let doubts = known.values().filter(|known| known.doubt).count();
    assert!(refused > 0 && replayed > 0, "{refused} calls refused, {replayed} replayed");
    let mut table = Table::new(&["two owners of one journal in memory", ""]);
    table.row(["takeovers", &owners.to_string()]);
    table.row(["seed", &seed.to_string()]);
    table.row(["calls that an owner refused or broke off", &refused.to_string()]);
    table.row(["answers acknowledged, and replayed by the last owner", &replayed.to_string()]);
    table.row(["calls held in doubt", &doubts.to_string()]);
    table.row(["**repeated effects**", "**0**"]);
    table.row(["**lost acknowledged steps**", "**0**"]);
    table.write("owners");
    all.into_iter().for_each(Owner::end);
}

/// An agent at work while the journal changes hands, that sometimes asks an owner of before.
fn storm(all: &RwLock<Vec<Owner>>, agent: usize, owner: usize, mut random: Random) -> (Known, usize) {
    let mut known = Known::default();
    let mut refused = 0;
    while known.answers.len() < CALLS {
        let (address, is_newest, count) = {
            let all = all.read().unwrap();
            let at = if random.chance(4) { random.below(all.len()) } else { all.len() - 1 };
            (all[at].address, at + 1 == all.len(), all.len())
        };
        let call = known.answers.len();
        match client::try_call(address, &path(agent, 1, owner, call)) {
            Ok(answer) if answer.status == 200 => {
                assert!(is_newest, "an owner of before answered: {answer:?}");
                known.answers.push(answer.text());
            }
            Ok(answer) if answer.text().contains("OG3001") && is_newest => {
                known.doubt = true;
                break;
            }
            Ok(_) | Err(_) => {
                refused += 1;
                // Whoever was the newest has been taken over meanwhile, or is about to be known.
                if is_newest {
                    wait::until("the next owner", || all.read().unwrap().len() > count || random.chance(3));
                }
            }
        }
    }
    (known, refused)
}

#[test]
fn case_8_the_journal_of_a_stopped_owner_cannot_be_opened_by_another() {
    let upstream = super::counting();
    let sidecar = super::crm(&upstream).start();
    sidecar.call(&charge(1, 1)).expect(200, "live");
    cli::signal(sidecar.pid(), Signal::STOP);
    let other = Setup::new().upstream("crm", "http", &upstream.url());
    let config = sidecar.home().join("other.yaml");
    let addresses = [crate::support::ports::free(), crate::support::ports::free()];
    std::fs::write(&config, other.yaml(&sidecar.journal(), addresses[0], addresses[1])).unwrap();
    cli::run(&["serve", "--config", config.to_str().unwrap()]).expect_code(1).says(&[
        "OG5002",
        "in use by process",
        &sidecar.pid().to_string(),
    ]);
    cli::signal(sidecar.pid(), Signal::CONT);
    sidecar.call(&charge(1, 2)).expect(200, "live");
    sidecar.call(&charge(2, 1)).expect(200, "replay");
    assert_eq!(upstream.count(), 2);
}
