//! How an embedded journal starts: directory, lock, recovery, epoch, threads. In this order, so that
//! whatever stops it is said before anything is changed.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::Mutex;
use tracing::warn;

use crate::failpoint::{Point, reach};
use crate::model::{Epoch, WorkflowKey};

use super::super::Durability;
use super::super::body::Packer;
use super::super::lease::{self, Holder, Lock};
use super::Embedded;
use super::frame::{self, Damaged, Kind, Opened};
use super::index::{self, INDEX, Watermark};
use super::keeper::{self, KEEPER_WAITING_MAX, Sealer, ToSealer};
use super::live::LiveMap;
use super::open::{IndexReport, OpenError, OpenReport, Options};
use super::queue::Queue;
use super::rebuild::{self, Rebuilt};
use super::recover::{self, Mode, Recovered};
use super::row::{self, Short};
use super::segment::{self, LOG, Segment};
use super::store::{Store, Table};
use super::writer::{self, Poison, Writer};

/// Smallest segment: room for a head, a record, and a trailer.
const SEGMENT_BYTES_MIN: u64 = 4096;

/// What the index takes beside the log when there is nothing in it yet.
const INDEX_BYTES: u64 = 1 << 20;

/// The threads behind a journal.
#[derive(Debug)]
pub(super) struct Threads {
    writer: JoinHandle<Writer>,
    keeper: JoinHandle<()>,
    sealer: JoinHandle<()>,
}

impl Threads {
    /// Waits until everything queued is written; the queue must have ended. The end of the log, unless
    /// the writer died.
    pub(super) fn join(self) -> Option<Writer> {
        let writer = self.writer.join().ok().map(|mut writer| {
            // The keeper ends when nobody can send to it, and the sealer when the keeper has ended.
            writer.keeper = mpsc::sync_channel(0).0;
            writer
        });
        let (keeper, sealer) = (self.keeper.join(), self.sealer.join());
        writer.filter(|_| keeper.is_ok() && sealer.is_ok())
    }
}

pub(super) fn open(options: Options) -> Result<(Embedded, OpenReport), OpenError> {
    let boot_id = boot_id(&options)?;
    make(&options)?;
    let lock = take_lock(&options)?;
    open_locked(options, boot_id, lock, |_, _, _| Ok(()))
}

/// Opens a journal whose index is set aside and made anew before anything else.
pub(super) fn open_with_new_index(options: Options) -> Result<(Embedded, OpenReport, Rebuilt), OpenError> {
    let boot_id = boot_id(&options)?;
    make(&options)?;
    let lock = take_lock(&options)?;
    let dir = options.path.join(INDEX);
    let had_one = fs::exists(&dir).map_err(OpenError::io("looking for the index"))?;
    index::set_aside(&dir)
        .map_err(|error| OpenError::io("setting the index aside")(io::Error::other(error)))?;
    let mut rebuilt = None;
    let (journal, report) = open_locked(options, boot_id, lock, |store, options, found| {
        rebuilt = Some(rebuild::fill(store, options, found)?);
        Ok(())
    })?;
    let mut rebuilt = rebuilt.unwrap_or_default();
    rebuilt.set_aside = had_one.then(|| index::aside(&dir));
    Ok((journal, report, rebuilt))
}

/// Opens the journal whose lock is had; `before` is called once the log is recovered.
fn open_locked(
    options: Options,
    boot_id: String,
    lock: Lock,
    before: impl FnOnce(&Store, &Options, &mut Recovered) -> Result<(), OpenError>,
) -> Result<(Embedded, OpenReport), OpenError> {
    let store = Arc::new(Store::new(&options.path.join(LOG)));
    let mut found = recover::run(&store, &options.path, &options.disk, &boot_id, Mode::Write)?;
    let told = lock.told().map_or(0, |holder| holder.epoch);
    let epoch = Epoch(found.tip.epoch.max(told) + 1);
    let mut report = std::mem::take(&mut found.report);
    report.epoch = epoch;
    (found.tip.epoch, found.tip.boot_id) = (epoch.0, boot_id.clone());
    before(&store, &options, &mut found)?;
    let (notes, short) = (std::mem::take(&mut found.notes), std::mem::take(&mut found.short));

    let poison = Arc::new(Poison::default());
    let (mut writer, behind) = assemble(&options, &store, &poison, found, &report, &boot_id)?;
    let (at, version) = (options.clock.now().0, options.version.clone());
    let opened = Opened { epoch: epoch.0, at, version, boot_id };
    let mut frames = vec![(Kind::Opened, frame::cbor(&opened))];
    frames.extend(notes.iter().map(|(key, what)| (Kind::Damaged, frame::cbor(&Damaged::new(key, what)))));
    writer::write_first(&mut writer, frames).map_err(OpenError::Journal)?;
    reach(Point::EpochOpened);
    take_note(&store, &notes)?;
    behind.lengthen(short)?;
    let holder = Holder { pid: std::process::id(), admin: options.admin.clone(), epoch: epoch.0 };
    lock.tell(&holder).map_err(OpenError::io("writing the lock file"))?;

    let current = Arc::clone(&writer.current);
    let queue = Arc::new(Queue::new(options.queue_bytes_max));
    let threads = behind.with_writer(&options, &queue, writer)?;
    let journal = Embedded {
        store,
        live: LiveMap::new(options.workflows_live_max),
        queue,
        packer: Packer::default(),
        poison,
        epoch,
        durability: durability(&options.path)?,
        clock: options.clock,
        current,
        log: options.path.join(LOG),
        disk: options.disk,
        segment_bytes: options.segment_bytes.max(SEGMENT_BYTES_MIN),
        compacting: Mutex::default(),
        stopping: AtomicBool::new(false),
        lock: Some(lock),
        holder: Mutex::new(holder),
        threads: Mutex::new(Some(threads)),
    };
    Ok((journal, report))
}

/// The writer at the log's end, not yet at work, and the threads behind it, which are.
fn assemble(
    options: &Options,
    store: &Arc<Store>,
    poison: &Arc<Poison>,
    found: Recovered,
    report: &OpenReport,
    boot_id: &str,
) -> Result<(Writer, Behind), OpenError> {
    let newest = store.newest_sealed();
    let is_complete = report.index == IndexReport::Trusted && found.unindexed.is_empty();
    if let Some((segment, hash)) = newest.filter(|_| is_complete) {
        store.index().mark(&Watermark { segment, hash, boot_id: boot_id.to_owned() });
    }
    let mut segments = found.segments.into_iter();
    let segment = match segments.next() {
        Some(segment) => segment,
        None => first_segment(store, options, found.next_number)?,
    };
    let (to_keeper, from_writer) = mpsc::sync_channel(KEEPER_WAITING_MAX);
    let (to_sealer, from_keeper) = mpsc::channel();
    let (to_writer, prepared) = mpsc::sync_channel(2);
    prepare_next(store, segment.head.number, segments, &to_sealer, &to_writer)?;
    let sealer = Sealer {
        store: Arc::clone(store),
        disk: options.disk.clone(),
        log: options.path.join(LOG),
        segment_bytes: options.segment_bytes.max(SEGMENT_BYTES_MIN),
        boot_id: boot_id.to_owned(),
        prepared: to_writer,
        poison: Arc::clone(poison),
        unindexed: found.unindexed,
        newest,
    };
    let behind = Behind::spawn(store, sealer, (from_writer, to_sealer, from_keeper))?;
    let current = Arc::new(AtomicU64::new(segment.head.number));
    let poison = Arc::clone(poison);
    Ok((Writer { segment, tip: found.tip, prepared, keeper: to_keeper, poison, current }, behind))
}

/// There is a journal in `path`, and nobody owns it.
pub(super) fn check_free(path: &Path) -> Result<(), OpenError> {
    let path = path.to_owned();
    if !fs::exists(path.join(LOG)).map_err(OpenError::io("looking for the log"))? {
        return Err(OpenError::Missing { path });
    }
    match Lock::read(&path).map_err(OpenError::io("reading the lock file"))? {
        Some(holder) => Err(OpenError::Locked { path, pid: holder.pid, admin: holder.admin }),
        None => Ok(()),
    }
}

pub(super) fn open_read_only(options: Options) -> Result<(Embedded, OpenReport), OpenError> {
    let path = options.path.clone();
    check_free(&path)?;
    let boot_id = boot_id(&options)?;
    let store = Arc::new(Store::new(&path.join(LOG)));
    let found = recover::run(&store, &path, &options.disk, &boot_id, Mode::Read)?;
    take_note(&store, &found.notes)?;
    let mut report = found.report;
    report.epoch = Epoch(found.tip.epoch);
    let queue = Arc::new(Queue::new(0));
    queue.end();
    let journal = Embedded {
        store,
        live: LiveMap::new(options.workflows_live_max),
        queue,
        packer: Packer::default(),
        poison: Arc::default(),
        epoch: report.epoch,
        durability: durability(&path)?,
        clock: options.clock,
        current: Arc::default(),
        log: path.join(LOG),
        disk: options.disk,
        segment_bytes: options.segment_bytes.max(SEGMENT_BYTES_MIN),
        compacting: Mutex::default(),
        stopping: AtomicBool::new(false),
        lock: None,
        holder: Mutex::default(),
        threads: Mutex::new(None),
    };
    Ok((journal, report))
}

/// The machine's boot, which tells a power cut from the death of a process.
fn boot_id(options: &Options) -> Result<String, OpenError> {
    if let Some(boot_id) = &options.boot_id {
        return Ok(boot_id.clone());
    }
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_err(OpenError::io("reading the boot id"))?;
    Ok(boot_id.trim().to_owned())
}

/// Makes the directory, unless it is there, and says what is wrong with it.
fn make(options: &Options) -> Result<(), OpenError> {
    let path = &options.path;
    let unwritable = |source: io::Error| {
        let kind = source.kind();
        let path = path.clone();
        if kind == io::ErrorKind::StorageFull {
            OpenError::Space { path, needed: needed(options), available: 0 }
        } else if matches!(
            kind,
            io::ErrorKind::AlreadyExists
                | io::ErrorKind::NotADirectory
                | io::ErrorKind::NotFound
                | io::ErrorKind::PermissionDenied
                | io::ErrorKind::ReadOnlyFilesystem
        ) {
            OpenError::Unwritable { path, source }
        } else {
            OpenError::Io { doing: format!("making {}", path.display()), source }
        }
    };
    fs::create_dir_all(path).map_err(unwritable)?;
    let network = lease::network_file_system(path).map_err(OpenError::io("looking at the file system"))?;
    if let Some(kind) = network {
        return Err(OpenError::NetworkFileSystem { path: path.clone(), kind });
    }
    let log = path.join(LOG);
    let is_journal = fs::exists(&log).and_then(|log| Ok(log || fs::exists(path.join(lease::FILE))?));
    let mut others = fs::read_dir(path).map_err(unwritable)?;
    if !is_journal.map_err(unwritable)? && others.next().is_some() {
        return Err(OpenError::NotAJournal { path: path.clone() });
    }
    let has_log =
        fs::exists(&log).map_err(unwritable)? && fs::read_dir(&log).map_err(unwritable)?.next().is_some();
    if !has_log {
        check_space(options)?;
    }
    fs::create_dir_all(&log).map_err(unwritable)?;
    for dir in [path.parent().filter(|parent| !parent.as_os_str().is_empty()), Some(path.as_path())] {
        // The directory may be there for long, in one that this user cannot read.
        let synced = dir.map_or(Ok(()), |dir| options.disk.sync_dir(dir));
        synced.or_else(|error| if has_log { Ok(()) } else { Err(error) }).map_err(unwritable)?;
    }
    Ok(())
}

/// What a new journal takes: two segments and the index.
fn needed(options: &Options) -> u64 {
    2 * options.segment_bytes.max(SEGMENT_BYTES_MIN) + INDEX_BYTES
}

fn check_space(options: &Options) -> Result<(), OpenError> {
    let path = options.path.clone();
    let disk =
        rustix::fs::statvfs(&path).map_err(|error| OpenError::io("asking for free space")(error.into()))?;
    let (needed, available) = (needed(options), disk.f_bavail.saturating_mul(disk.f_frsize));
    if available < needed { Err(OpenError::Space { path, needed, available }) } else { Ok(()) }
}

fn take_lock(options: &Options) -> Result<Lock, OpenError> {
    let path = options.path.clone();
    Lock::take(&path).map_err(|error| match error {
        lease::Error::Held(holder) => {
            let holder = holder.unwrap_or_default();
            OpenError::Locked { path, pid: holder.pid, admin: holder.admin }
        }
        lease::Error::Io(source) => OpenError::Unwritable { path, source },
    })
}

fn first_segment(store: &Store, options: &Options, number: u64) -> Result<Segment, OpenError> {
    let len = options.segment_bytes.max(SEGMENT_BYTES_MIN);
    let head = segment::Head::new(number, len).map_err(OpenError::io("preparing the log's first segment"))?;
    let made = segment::prepare(&options.disk, &options.path.join(LOG), head);
    let segment = made.map_err(|source| {
        if source.kind() == io::ErrorKind::StorageFull {
            OpenError::Space { path: options.path.clone(), needed: needed(options), available: 0 }
        } else {
            OpenError::Io { doing: "preparing the log's first segment".to_owned(), source }
        }
    })?;
    store.resized(0, segment.filled);
    store.open_table(Table::new(number, segment.file.reader(), segment.seed.clone()));
    Ok(segment)
}

/// Hands the writer the segment that was prepared before, or asks for one. Whatever else was prepared is
/// removed: there is nothing in it, and its number would be given twice.
fn prepare_next(
    store: &Store,
    open: u64,
    mut prepared: impl Iterator<Item = Segment>,
    sealer: &mpsc::Sender<ToSealer>,
    writer: &mpsc::SyncSender<io::Result<Segment>>,
) -> Result<(), OpenError> {
    let next = prepared.next();
    for extra in prepared {
        fs::remove_file(extra.file.path()).map_err(OpenError::io("removing an empty segment"))?;
        store.resized(extra.filled, 0);
    }
    // Both receivers are in this function's caller.
    match next {
        Some(next) => drop(writer.send(Ok(next))),
        None => drop(sealer.send(ToSealer::Prepare(open + 1))),
    }
    Ok(())
}

/// Puts what is known of damage into the heads.
fn take_note(store: &Store, notes: &[(WorkflowKey, String)]) -> Result<(), OpenError> {
    for (key, what) in notes {
        let short = Short::of(key);
        if let Some(mut row) = store.head(short).map_err(OpenError::Journal)? {
            row.head.damage.get_or_insert_with(|| what.clone());
            store.put([(row::head_key(short), row.value())]);
        }
    }
    Ok(())
}

/// `PowerLoss` rests on the power-cut test (`tests::powercut`); a disk in memory survives nothing.
fn durability(path: &Path) -> Result<Durability, OpenError> {
    let in_memory =
        lease::is_memory_file_system(path).map_err(OpenError::io("looking at the file system"))?;
    if in_memory {
        warn!("the journal is on a file system in memory: it survives the process, not a power cut");
    }
    Ok(if in_memory { Durability::ProcessKill } else { Durability::PowerLoss })
}

type Channels = (mpsc::Receiver<keeper::ToKeeper>, mpsc::Sender<ToSealer>, mpsc::Receiver<ToSealer>);

/// The threads behind the writer, who needs them even for the first batch: it may have to go on to another
/// segment.
struct Behind {
    keeper: JoinHandle<()>,
    sealer: JoinHandle<()>,
    to_sealer: mpsc::Sender<ToSealer>,
}

impl Behind {
    fn spawn(
        store: &Arc<Store>,
        sealer: Sealer,
        (from_writer, to_sealer, from_keeper): Channels,
    ) -> Result<Self, OpenError> {
        let store = Arc::clone(store);
        let sealer = named("journal-sealer", move || sealer.run(&from_keeper))?;
        let for_keeper = to_sealer.clone();
        let keeper = named("journal-keeper", move || keeper::keep(&store, &from_writer, &for_keeper))?;
        Ok(Self { keeper, sealer, to_sealer })
    }

    /// Gives segments that were cut short their length again. What they have lost is told in the log by now: at the
    /// next start it is no news, and closes no workflow that was opened meanwhile. The sealer does it, because what was
    /// told may have filled such a segment, and a file that has its footer must keep its length.
    fn lengthen(&self, short: Vec<(u64, u64)>) -> Result<(), OpenError> {
        let (done, is_done) = mpsc::sync_channel(1);
        // The sealer is there as long as this sender.
        drop(self.to_sealer.send(ToSealer::Lengthen { short, done }));
        let gone = |_| io::Error::other("the journal's sealer ended");
        is_done
            .recv()
            .map_err(gone)
            .flatten()
            .map_err(OpenError::io("lengthening a segment that was cut short"))
    }

    fn with_writer(
        self,
        options: &Options,
        queue: &Arc<Queue>,
        writer: Writer,
    ) -> Result<Threads, OpenError> {
        let (queue, ride) = (Arc::clone(queue), Duration::from_millis(options.ride_ms_max));
        let writer = named("journal-writer", move || writer.run(&queue, ride))?;
        Ok(Threads { writer, keeper: self.keeper, sealer: self.sealer })
    }
}

fn named<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, OpenError> {
    let thread = thread::Builder::new().name(name.to_owned()).spawn(run);
    thread.map_err(OpenError::io("starting the journal's threads"))
}
