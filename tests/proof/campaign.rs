//! Thousands of lives: a sidecar on a journal that the life before has left, agents at work on it, its end, and what
//! the disk keeps of it: everything, as after `kill -9`, or what was flushed and any part of the rest, as after a
//! power cut.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use outrigger::app::{self, Running};
use outrigger::config::{self, Env, Listen};
use outrigger::failpoint::{self, Watcher};
use outrigger::journal::embedded::Options;
use tokio::runtime::{Builder, Runtime};

use crate::agent::{Agent, Tally, Violation};
use crate::layer::Dice;
use crate::life::{self, Life, Trigger};
use crate::support::random::Random;
use crate::support::wait;
use crate::world::World;

/// Agents at work at once, each on a workflow of its own.
const AGENTS: usize = 2;
/// Lives of one journal, before everything in it is asked for once more and another is begun.
const LIVES_PER_JOURNAL: usize = 40;
/// A life whose trigger never comes ends after so many answers.
const ANSWERS_MAX: u64 = 60;
/// Answers before an orderly stop.
const ANSWERS_BEFORE_STOP: u64 = 20;
/// A life that does nothing for so long is stuck.
const LIFE_MAX: Duration = Duration::from_secs(30);
const SEGMENT_BYTES: [u64; 3] = [4096, 16 << 10, 256 << 10];

/// What came of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Summary {
    pub(crate) crashes: usize,
    /// Crashes that lost what was not flushed.
    pub(crate) power_cuts: usize,
    /// Crashes by what triggered them.
    pub(crate) triggers: BTreeMap<String, usize>,
    pub(crate) journals: usize,
    pub(crate) tally: Tally,
    pub(crate) workflows: usize,
}

/// How a campaign is run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) crashes: usize,
    pub(crate) seed: u64,
}

/// What did not hold, and when.
#[derive(Clone, Debug)]
pub(crate) struct Failed {
    pub(crate) violation: Violation,
    pub(crate) crashes: usize,
    /// The journal as it is then, kept to be looked at.
    pub(crate) journal: PathBuf,
}

#[derive(Debug)]
struct NoEnv;

impl Env for NoEnv {
    fn var(&self, _: &str) -> Result<String, std::env::VarError> {
        Err(std::env::VarError::NotPresent)
    }
}

/// One journal and those at work on it.
struct Site {
    dir: tempfile::TempDir,
    /// How often the journal was left by a crash.
    generation: usize,
    boot: usize,
    segment_bytes: u64,
    agents: Vec<Agent>,
}

impl Site {
    fn new(number: usize, random: &mut Random) -> Self {
        // Flushes are this test's own business, so the disk may be one that needs none.
        let shared = Path::new("/dev/shm");
        let dir = if shared.is_dir() { tempfile::tempdir_in(shared) } else { tempfile::tempdir() };
        let segment_bytes = *random.pick(&SEGMENT_BYTES);
        let agents =
            (0..AGENTS).map(|agent| Agent::new(&format!("w{number}-{agent}"), Random::new(random.next())));
        Self { dir: dir.unwrap(), generation: 0, boot: 0, segment_bytes, agents: agents.collect() }
    }

    fn journal(&self) -> PathBuf {
        self.dir.path().join(format!("journal-{}", self.generation))
    }

    fn keep(self) -> PathBuf {
        let journal = self.journal();
        _ = self.dir.keep();
        journal
    }

    /// What the life that has ended leaves to the next one.
    fn crash(&mut self, life: &Life, is_power_cut: bool, random: &mut Random) {
        let from = self.journal();
        self.generation += 1;
        let to = self.journal();
        if is_power_cut {
            self.boot += 1;
            life.layer.cut(&from, &to, &mut Dice(random.next()), || ());
        } else {
            life::copy_dir(&from, &to);
            _ = std::fs::remove_dir_all(to.join("index"));
            life::copy_dir(&life::index_at_the_end(&from), &to.join("index"));
        }
        _ = std::fs::remove_dir_all(life::index_at_the_end(&from));
        // sled has threads that end a little later than it.
        wait::until("the journal that was left is gone", || {
            _ = std::fs::remove_dir_all(&from);
            !from.exists()
        });
    }

    fn settings(&self, world: &World, life: &Life) -> config::Settings {
        let url = world.url(life.number);
        let yaml = format!(
            "listen: [{{ address: \"127.0.0.1:0\" }}]\nadmin: {{ address: \"127.0.0.1:0\" }}\n\
             journal: {{ path: \"{}\" }}\nupstreams:\n  \
             crm: {{ dialect: http, url: \"{url}/crm\", tools: {{ keyed: {{ method: POST, path: /keyed, \
             idempotency_key: {{ header: Idempotency-Key }} }} }} }}\n  \
             openai: {{ dialect: openai, url: \"{url}/openai\" }}\n  tools: {{ dialect: mcp, url: \"{url}/tools\" }}\n",
            self.journal().display()
        );
        config::load_text("the proof's config", &yaml, &NoEnv).unwrap_or_else(|report| panic!("{report:?}"))
    }
}

/// A sidecar in this process, or none if its life ended while it began.
struct Sidecar {
    runtime: Runtime,
    running: Option<Running>,
}

impl Sidecar {
    fn start(site: &Site, world: &World, life: &Arc<Life>) -> Result<Self, Violation> {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let settings = site.settings(world, life);
        let (watch, boot, segment_bytes) = (Arc::clone(life), site.boot, site.segment_bytes);
        let change = move |options: Options| {
            let mut options = options.behind(watch, &format!("boot-{boot}"));
            options.segment_bytes = segment_bytes;
            options
        };
        let started =
            catch_unwind(AssertUnwindSafe(|| runtime.block_on(app::start_changed(settings, change))));
        let running = match started {
            Ok(Ok(running)) => Some(running),
            Ok(Err(_)) | Err(_) if life.is_dead() => None,
            Ok(Err(error)) => return Err(Violation::Odd(format!("the sidecar does not start: {error}"))),
            Err(panic) => {
                return Err(Violation::Odd(format!(
                    "the start panicked (the end: {})",
                    life::is_end(&*panic)
                )));
            }
        };
        Ok(Self { runtime, running })
    }

    fn address(&self) -> Option<SocketAddr> {
        match self.running.as_ref()?.listen() {
            [Listen::Tcp(address)] => Some(*address),
            other => panic!("it listens on {other:?}"),
        }
    }

    /// Stops it in good order.
    fn stop(&mut self) -> bool {
        let Some(running) = self.running.take() else { return false };
        catch_unwind(AssertUnwindSafe(|| self.runtime.block_on(running.stop())))
            .is_ok_and(|stopped| stopped.is_ok())
    }

    /// Everything of it is gone afterwards.
    fn bury(self) {
        let journal = self.running.as_ref().map(|running| Arc::downgrade(running.sidecar().journal()));
        drop(self.running);
        self.runtime.shutdown_timeout(LIFE_MAX);
        if let Some(journal) = journal {
            wait::until("nobody holds the journal", || journal.strong_count() == 0);
        }
    }
}

/// Runs a campaign to its end, or to the first thing that does not hold.
pub(crate) fn run(plan: Plan) -> Result<Summary, Failed> {
    let mut random = Random::new(plan.seed);
    let world = World::start();
    let mut summary = Summary::default();
    let mut lives = 0;
    while summary.crashes < plan.crashes {
        let mut site = Site::new(summary.journals, &mut random);
        summary.journals += 1;
        for _ in 0..LIVES_PER_JOURNAL {
            if summary.crashes == plan.crashes {
                break;
            }
            lives += 1;
            let life = Life::new(lives, Trigger::random(&mut random), ANSWERS_MAX, &site.journal());
            let lived = live(&mut site, &world, &life);
            let (crashes, trigger) = (summary.crashes, describe(&life));
            if let Err(violation) = lived {
                return Err(Failed { violation, crashes, journal: site.keep() });
            }
            let is_power_cut = random.chance(2);
            site.crash(&life, is_power_cut, &mut random);
            summary.crashes += 1;
            summary.power_cuts += usize::from(is_power_cut);
            *summary.triggers.entry(trigger).or_default() += 1;
        }
        lives += 1;
        // Nothing ends this one.
        let life = Life::new(lives, Trigger::Disk(u64::MAX), u64::MAX, &site.journal());
        let asked = ask_all(&mut site, &world, &life, &mut random);
        if let Err(violation) = asked {
            return Err(Failed { violation, crashes: summary.crashes, journal: site.keep() });
        }
        take_in(&mut summary, &site);
        world.forget();
    }
    Ok(summary)
}

fn describe(life: &Life) -> String {
    if life.was_triggered() {
        life.trigger_name()
    } else {
        format!("none of these, but after {ANSWERS_MAX} answers")
    }
}

fn take_in(summary: &mut Summary, site: &Site) {
    for agent in &site.agents {
        let (all, one) = (&mut summary.tally, agent.tally);
        all.answers += one.answers;
        all.replays += one.replays;
        all.doubts += one.doubts;
        all.agent_deaths += one.agent_deaths;
        all.delivered_again += one.delivered_again;
        all.held_up += one.held_up;
        summary.workflows += agent.done.len() + 1;
    }
}

/// One life, up to its end.
fn live(site: &mut Site, world: &World, life: &Arc<Life>) -> Result<(), Violation> {
    world.hear(life);
    failpoint::arm(Arc::clone(life) as Arc<dyn Watcher>);
    let mut sidecar = Sidecar::start(site, world, life)?;
    let Some(address) = sidecar.address() else {
        sidecar.bury();
        failpoint::disarm();
        return Ok(());
    };
    let outcome = std::thread::scope(|scope| {
        let at_work: Vec<_> = site
            .agents
            .iter_mut()
            .map(|agent| {
                scope.spawn(move || {
                    agent.sidecar_is_back();
                    let worked = agent.work(life, address, world);
                    if worked.is_err() {
                        life.die();
                    }
                    worked
                })
            })
            .collect();
        let has_ended = if life.wants_stop() {
            wait::until("some answers", || life.answers() >= ANSWERS_BEFORE_STOP || life.is_dead());
            life.stop();
            sidecar.stop();
            true
        } else {
            life.wait(LIFE_MAX)
        };
        life.die();
        sidecar.bury();
        let worked: Result<Vec<()>, Violation> =
            at_work.into_iter().map(|agent| agent.join().expect("an agent does not panic")).collect();
        worked
            .and_then(|_| if has_ended { Ok(()) } else { Err(Violation::Odd(format!("{life:?} is stuck"))) })
    });
    failpoint::disarm();
    outcome
}

/// One more life, in which everything that was ever acknowledged is asked for again.
fn ask_all(site: &mut Site, world: &World, life: &Arc<Life>, random: &mut Random) -> Result<(), Violation> {
    world.hear(life);
    let mut sidecar = Sidecar::start(site, world, life)?;
    let Some(address) = sidecar.address() else {
        return Err(Violation::Odd("the sidecar does not start at the end".to_owned()));
    };
    for agent in &mut site.agents {
        agent.ask_all(address, world)?;
    }
    if random.chance(2) && !sidecar.stop() {
        return Err(Violation::Odd("the sidecar does not stop in good order".to_owned()));
    }
    sidecar.bury();
    Ok(())
}
