//! Tests of the log without a store: pending and written records, and a disk that fails.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::sync::Barrier;

use super::*;
use crate::item::{Expiry, Item};

/// A disk that records the calls, and fails those that the test chose.
#[derive(Debug, Default)]
struct FaultyDisk {
    /// The files that are being synced, and whether one was synced twice at the same time.
    syncing: Mutex<std::collections::HashSet<u64>>,
    has_overlapped: AtomicBool,
    calls: Mutex<Vec<String>>,
    /// How the calls that fail begin, and which of them fail: 0 is the next one.
    fault: Mutex<(&'static str, Range<usize>)>,
    /// The next sync waits here for the test, twice: at its beginning and before its end.
    sync_barrier: Mutex<Option<Arc<Barrier>>>,
}

impl FaultyDisk {
    /// Fails calls that begin with `what`: those with these numbers, counted from now on.
    fn fail(&self, what: &'static str, numbers: Range<usize>) {
        *lock(&self.fault) = (what, numbers);
    }

    /// Returns the calls since it was last called.
    fn take_calls(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.calls))
    }

    /// Records a call. Returns an error if this call must fail.
    fn call(&self, call: String) -> io::Result<()> {
        let (what, numbers) = &mut *lock(&self.fault);
        let matches = call.starts_with(*what);
        lock(&self.calls).push(call);
        if !matches || numbers.end == 0 {
            return Ok(());
        }
        let fails = numbers.start == 0;
        *numbers = numbers.start.saturating_sub(1)..numbers.end - 1;
        match fails {
            true => Err(io::Error::other("a fault")),
            false => Ok(()),
        }
    }
}

/// The name of an open file: `aof`.
fn name(file: &File) -> String {
    use std::os::fd::AsRawFd;
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    let path = std::fs::read_link(link).expect("the file is open");
    let name = path.file_name().expect("a file has a name");
    name.to_string_lossy().into_owned()
}

impl Disk for FaultyDisk {
    /// A write that fails leaves the first half of the bytes in the file.
    fn write(&self, mut file: &File, bytes: &[u8]) -> io::Result<usize> {
        if let Err(error) = self.call(format!("write {}", name(file))) {
            file.write_all(&bytes[..bytes.len() / 2])?;
            return Err(error);
        }
        file.write(bytes)
    }

    fn truncate(&self, file: &File, length: u64) -> io::Result<()> {
        self.call(format!("truncate {}", name(file)))?;
        file.set_len(length)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        use std::os::unix::fs::MetadataExt;
        let id = file.metadata().expect("it is open").ino();
        if !lock(&self.syncing).insert(id) {
            self.has_overlapped.store(true, Relaxed);
        }
        (0..10).for_each(|_| thread::yield_now());
        lock(&self.syncing).remove(&id);
        let outcome = self.call(format!("sync {}", name(file)));
        let barrier = lock(&self.sync_barrier).take();
        if let Some(barrier) = barrier {
            barrier.wait();
            barrier.wait();
        }
        outcome
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call("rename".into())?;
        std::fs::rename(from, to)
    }

    fn sync_folder(&self, _: &File) -> io::Result<()> {
        self.call("sync folder".into())
    }
}

/// A record with a number.
fn record(number: u32) -> Record<'static> {
    Record::FlushAt(START + number)
}

/// The time of record 0. The log has dates only, because a number of seconds would depend on the time of the replay.
const START: u32 = 1_800_000_000;

/// A log in a folder of its own.
struct Sample {
    aof: Aof,
    disk: Arc<FaultyDisk>,
    folder: PathBuf,
}

fn options(folder: &Path, fsync: Fsync) -> Options {
    Options {
        path: folder.join("aof"),
        fsync,
        rewrite_size: 1000,
        rewrite_growth: 2,
        repair: false,
        fresh: false,
        lock_wait: Duration::ZERO,
    }
}

/// Opens the log in a folder. Returns it with the numbers of the records that are in it.
fn open(disk: &Arc<FaultyDisk>, options: Options) -> (Aof, Vec<u32>) {
    let mut numbers = Vec::new();
    let apply = |record: Record<'_>| {
        if let Record::FlushAt(time) = record {
            numbers.push(time - START);
        }
    };
    let disk = Arc::clone(disk) as Arc<dyn Disk>;
    let opened = Aof::open_on(disk, options, apply, || false);
    let (aof, _) = opened.expect("the file is new, or whole");
    (aof, numbers)
}

impl Sample {
    fn new(name: &str, fsync: Fsync) -> Sample {
        let name = format!("rustmemc-{name}-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).expect("a folder can be made");
        let disk = Arc::new(FaultyDisk::default());
        let (aof, _) = open(&disk, options(&folder, fsync));
        disk.take_calls();
        Sample { aof, disk, folder }
    }

    /// Appends a record. Returns whether that is allowed.
    fn append(&self, number: u32) -> bool {
        self.aof.append([record(number)].into_iter()).is_ok()
    }

    /// Whether answers may be sent.
    fn flush(&self) -> bool {
        self.aof.before_answers().is_ok()
    }

    /// Makes a change. Returns whether it is acknowledged.
    fn change(&self, number: u32) -> bool {
        self.aof.before_change().is_ok() && self.append(number) && self.flush()
    }

    /// Rewrites the file. The store's items are records with these numbers.
    fn rewrite(&self, numbers: &[u32]) -> io::Result<()> {
        let rewrite = || {
            self.aof.begin_rewrite(|| 1)?;
            self.copy(numbers.iter().map(|number| record(*number)))?;
            self.aof.finish_rewrite()
        };
        rewrite().inspect_err(|_| self.aof.abandon_rewrite())
    }

    /// Copies a shard to the new file of a rewrite.
    fn copy(&self, records: impl Iterator<Item = Record<'static>>) -> io::Result<()> {
        self.aof.append_copy(records);
        self.aof.write_copies()
    }

    /// The numbers of the records in the file.
    fn numbers(&self) -> Vec<u32> {
        let text = std::fs::read_to_string(self.folder.join("aof")).expect("it can be read");
        let lines = text
            .lines()
            .filter_map(|line| line.strip_prefix("flush_all "));
        lines
            .map(|line| {
                let (number, _) = line.split_once(' ').expect("a checksum follows");
                number.parse::<u32>().expect("a number") - 1 - START
            })
            .collect()
    }

    fn size(&self) -> u64 {
        std::fs::metadata(self.folder.join("aof"))
            .expect("it is there")
            .len()
    }
}

impl Drop for Sample {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn an_appended_record_is_in_the_file_before_its_answer_is_sent() {
    let sample = Sample::new("before-answers", Fsync::Never);
    assert!(sample.append(7) && sample.append(8) && sample.flush());
    assert_eq!(sample.numbers(), [7, 8]);
}

#[test]
fn a_record_that_no_client_waits_for_is_written_by_maintenance() {
    let sample = Sample::new("maintain", Fsync::Never);
    assert!(sample.append(7));
    sample.aof.maintain();
    assert_eq!(sample.numbers(), [7]);
}

#[test]
fn records_that_could_not_be_written_wait_in_order_and_appending_is_refused() {
    for fsync in [Fsync::Never, Fsync::Always] {
        let sample = Sample::new(&format!("stuck-{fsync}"), fsync);
        assert!(sample.append(1) && sample.flush());
        sample.disk.fail("write", 0..usize::MAX);
        // No write has failed yet.
        assert!(sample.append(2) && sample.append(3));
        assert!(!sample.flush() && !sample.flush());
        assert!(!sample.append(4) && !sample.flush());
        assert_eq!(sample.numbers(), [1]);
        sample.disk.fail("", 0..0);
        assert!(sample.change(5));
        assert_eq!(sample.numbers(), [1, 2, 3, 5]);
    }
}

#[test]
fn a_rewrite_writes_a_copy_after_the_pending_records_and_before_later_ones() {
    let sample = Sample::new("pending-rewrite", Fsync::Never);
    assert!(sample.append(1), "the copy has this change");
    sample.aof.begin_rewrite(|| 1).expect("it can begin");
    assert!(sample.append(2));
    sample
        .copy([record(3)].into_iter())
        .expect("it can be copied");
    assert!(sample.append(4) && sample.flush());
    assert_eq!(sample.numbers(), [1, 2, 4], "the old file has all changes");
    assert!(sample.append(5));
    sample.aof.finish_rewrite().expect("it can be finished");
    assert!(sample.append(6) && sample.flush());
    assert_eq!(sample.numbers(), [2, 3, 4, 5, 6]);
}

#[test]
fn a_rewrite_replaces_records_that_could_not_be_written() {
    let sample = Sample::new("stuck-rewrite", Fsync::Always);
    // A write to the old file fails before the rewrite, and another during it.
    sample.disk.fail("write aof", 0..1);
    assert!(sample.append(1) && !sample.flush());
    sample.aof.begin_rewrite(|| 1).expect("it can begin");
    let copied = sample.copy([record(1)].into_iter());
    copied.expect("the new file can be written");
    sample.disk.fail("write aof", 0..1);
    assert!(!sample.change(2), "the old one cannot");
    let finished = sample.aof.finish_rewrite();
    finished.expect("the new file can take its place");
    let (appended, written) = (&sample.aof.appended, &sample.aof.written);
    assert_eq!(written.load(Relaxed), appended.load(Relaxed));
    assert!(sample.flush() && sample.append(3) && sample.flush());
    assert_eq!(sample.numbers(), [1, 3]);
}

#[test]
fn a_thread_that_appends_too_much_writes_the_pending_records() {
    let sample = Sample::new("most-pending", Fsync::Never);
    let mut number = 0;
    while sample.numbers().is_empty() {
        number += 1;
        assert!(sample.aof.before_change().is_ok() && sample.append(number));
        let pending = lock(&sample.aof.pending).bytes.len();
        assert!(pending < MAX_PENDING + 100, "{pending} bytes are pending");
    }
    assert!(sample.flush());
    assert!(sample.numbers().into_iter().eq(1..=number));
}

#[test]
fn after_a_failed_sync_changes_are_refused_until_a_rewrite() {
    for fsync in [Fsync::Always, Fsync::EverySecond] {
        let sample = Sample::new(&format!("failed-sync-{fsync}"), fsync);
        sample.disk.fail("sync", 0..1);
        assert!(sample.append(1));
        if fsync == Fsync::Always {
            assert!(!sample.flush(), "the change is not acknowledged");
        }
        assert!(sample.aof.maintain(), "a small file is rewritten too");
        // The disk works again. But a later sync does not prove that the records of the first one are durable.
        assert!(sample.aof.before_change().is_err() && !sample.append(2));
        assert!(sample.aof.sync().is_err());
        assert_eq!(sample.disk.take_calls(), ["write aof", "sync aof"]);
        sample.rewrite(&[1]).expect("a new file can be made");
        assert!(!sample.aof.maintain(), "one rewrite is enough");
        assert!(sample.change(2));
        assert_eq!(sample.numbers(), [1, 2]);
    }
}

#[test]
fn after_a_rename_that_may_not_be_durable_changes_are_refused_until_a_rewrite() {
    let sample = Sample::new("failed-folder-sync", Fsync::Always);
    assert!(sample.change(1));
    sample.disk.fail("sync folder", 0..1);
    sample
        .rewrite(&[1])
        .expect_err("the rename may not be durable");
    assert!(!sample.change(2));
    sample.rewrite(&[1]).expect("the disk works again");
    assert!(sample.change(3));
    assert_eq!(sample.numbers(), [1, 3]);
}

#[test]
fn a_replay_of_large_values_can_be_stopped_between_any_two_of_them() {
    let sample = Sample::new("stopped", Fsync::Never);
    let item = |n: u8| Item::new(&[n], 0, Expiry::NEVER, &[&[b'v'; 2 << 20]]);
    let items = (b'a'..b'h').map(|n| Record::Put(item(n)));
    assert!(sample.aof.append(items).is_ok() && sample.flush());
    let _ = sample.aof.lock().writer.get_ref().unlock();
    let (mut applied, disk) = (0, Arc::clone(&sample.disk) as Arc<dyn Disk>);
    let count = |_: Record<'_>| applied += 1;
    let options = options(&sample.folder, Fsync::Never);
    let outcome = Aof::open_on(disk, options, count, || true);
    assert!(matches!(outcome, Err(open::OpenError::Stopped)));
    assert!(applied <= 2, "{applied} records are replayed");
}

#[test]
fn a_new_file_is_written_and_then_its_directory_entry_is_made_durable() {
    let sample = Sample::new("new", Fsync::Never);
    std::fs::remove_file(sample.folder.join("aof")).expect("it is there");
    drop(open(&sample.disk, options(&sample.folder, Fsync::Never)));
    assert_eq!(sample.disk.take_calls(), ["write aof", "sync folder"]);
    // The file exists now, so nothing is written.
    drop(open(&sample.disk, options(&sample.folder, Fsync::Never)));
    assert_eq!(sample.disk.take_calls(), ["sync folder"]);
}

#[test]
fn a_repair_makes_the_damaged_part_durable_elsewhere_before_it_truncates_the_file() {
    let sample = Sample::new("repair", Fsync::Never);
    let Sample { disk, folder, .. } = &sample;
    assert!(sample.change(1));
    let mut file = OpenOptions::new().append(true).open(folder.join("aof"));
    let file = file.as_mut().expect("it is there");
    file.write_all(b"damage\r\n").expect("it can be written");
    let _ = sample.aof.lock().writer.get_ref().unlock();
    disk.take_calls();
    let repair = Options {
        repair: true,
        ..options(folder, Fsync::Never)
    };
    let (_, found) = open(disk, repair);
    assert_eq!(found, [1]);
    let mut calls = disk.take_calls();
    assert!(calls[0].starts_with("sync aof.damaged-"), "{calls:?}");
    calls.remove(0);
    assert_eq!(
        calls,
        ["sync folder", "truncate aof", "sync aof", "sync folder"]
    );
}

/// Starts a sync that fails, calls `meanwhile` while the sync waits, and returns when it has ended.
fn while_a_sync_fails(sample: &Sample, meanwhile: impl FnOnce()) {
    let barrier = Arc::new(Barrier::new(2));
    *lock(&sample.disk.sync_barrier) = Some(Arc::clone(&barrier));
    sample.disk.fail("sync", 0..1);
    std::thread::scope(|scope| {
        let syncing = scope.spawn(|| sample.aof.sync());
        barrier.wait();
        meanwhile();
        barrier.wait();
        let outcome = syncing.join().expect("it does not panic");
        outcome.expect_err("the sync fails");
    });
}

#[test]
fn changes_and_stats_do_not_wait_for_the_sync_of_every_second() {
    let sample = Sample::new("waiting", Fsync::EverySecond);
    while_a_sync_fails(&sample, || {
        assert!(sample.change(1), "it does not wait for the sync");
        assert_eq!(sample.numbers(), [1]);
        sample.aof.describe();
    });
    assert!(!sample.change(2));
}

#[test]
fn a_rewrite_syncs_the_new_file_then_renames_it_then_syncs_the_folder() {
    let sample = Sample::new("order", Fsync::Never);
    assert!(sample.change(1));
    sample.aof.begin_rewrite(|| 1).expect("it can begin");
    let copied = sample.copy([record(1)].into_iter());
    copied.expect("the new file can be written");
    sample.disk.take_calls();
    assert!(sample.append(2));
    sample.aof.finish_rewrite().expect("it can be finished");
    assert_eq!(
        sample.disk.take_calls(),
        [
            "sync aof.rewrite",
            "sync aof.rewrite",
            "write aof.rewrite",
            "rename",
            "sync aof",
            "sync folder"
        ]
    );
}

#[test]
fn no_lock_is_held_during_the_syncs_of_a_rewrite() {
    let sample = Sample::new("rounds", Fsync::Never);
    assert!(sample.change(1));
    sample.aof.begin_rewrite(|| 1).expect("it can begin");
    let copied = sample.copy([record(1)].into_iter());
    copied.expect("the new file can be written");
    let next_sync = || {
        let barrier = Arc::new(Barrier::new(2));
        *lock(&sample.disk.sync_barrier) = Some(Arc::clone(&barrier));
        barrier
    };
    let (mut barrier, mut acknowledged) = (next_sync(), Vec::new());
    std::thread::scope(|scope| {
        let rewriting = scope.spawn(|| sample.aof.finish_rewrite());
        // Two syncs of the new file, and one when it has its name.
        for number in 2..=4 {
            barrier.wait();
            let is_unlocked = sample.aof.log.try_lock().is_ok();
            // If the lock is held, this would wait for ever.
            acknowledged.push(is_unlocked && sample.change(number));
            std::mem::replace(&mut barrier, next_sync()).wait();
        }
        *lock(&sample.disk.sync_barrier) = None;
        let rewritten = rewriting.join().expect("it does not panic");
        rewritten.expect("it can be finished");
    });
    assert_eq!(acknowledged, [true; 3]);
    assert_eq!(sample.numbers(), [1, 2, 3, 4]);
}

#[test]
fn before_the_new_file_gets_the_name_it_has_everything_that_is_acknowledged() {
    let sample = Sample::new("both", Fsync::Always);
    sample.aof.begin_rewrite(|| 1).expect("it can begin");
    let aof = &sample.aof;
    let synced = aof.one_sync_at_a_time(|| aof.sync_new_file(true));
    synced.expect("it can be synced");
    sample.disk.take_calls();
    assert!(sample.change(1));
    let mut calls = sample.disk.take_calls();
    calls.retain(|call| call.starts_with("sync"));
    assert_eq!(calls, ["sync aof", "sync aof.rewrite"]);
}

#[test]
fn one_file_is_never_synced_by_two_threads_at_the_same_time() {
    let sample = Sample::new("overlap", Fsync::Always);
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !is_over.load(Relaxed) {
                    assert!(sample.change(1));
                }
            });
        }
        for _ in 0..100 {
            sample.rewrite(&[1]).expect("it can be rewritten");
        }
        is_over.store(true, Relaxed);
    });
    assert!(!sample.disk.has_overlapped.load(Relaxed));
}

#[test]
fn the_write_that_makes_the_file_large_wakes_the_thread_that_rewrites_it() {
    const LONG: Duration = Duration::from_secs(20);
    let sample = Sample::new("woken", Fsync::Never);
    let is_ready = Barrier::new(2);
    std::thread::scope(|scope| {
        let keeper = scope.spawn(|| {
            sample.aof.set_keeper();
            is_ready.wait();
            let start = Instant::now();
            thread::park_timeout(LONG);
            start.elapsed() < LONG
        });
        is_ready.wait();
        for number in 0.. {
            if sample.size() > 1000 || keeper.is_finished() {
                break;
            }
            assert!(sample.change(number));
        }
        assert!(keeper.join().expect("it does not panic"));
    });
    assert!(sample.size() > 1000, "and not before");
}

/// Changes, and a rewrite amid them. Returns the numbers that the store has, and those that were acknowledged.
fn changes_and_a_rewrite(sample: &Sample) -> (Vec<u32>, Vec<u32>) {
    let has: RefCell<Vec<u32>> = RefCell::default();
    let acknowledged: RefCell<Vec<u32>> = RefCell::default();
    // The store makes a change as soon as its record is appended.
    let append = |number: u32| {
        let appended = sample.aof.before_change().is_ok() && sample.append(number);
        if appended {
            has.borrow_mut().push(number);
        }
        appended
    };
    let change = |number: u32| {
        if append(number) && sample.flush() {
            acknowledged.borrow_mut().push(number);
        }
    };
    change(1);
    let begun = sample.aof.begin_rewrite(|| 1);
    change(2);
    let copied = begun.and_then(|()| {
        let copied = has.borrow().clone();
        sample.copy(copied.into_iter().map(record))
    });
    change(3);
    append(4);
    let finished = copied.and_then(|()| sample.aof.finish_rewrite());
    let _ = finished.inspect_err(|_| sample.aof.abandon_rewrite());
    change(5);
    (has.into_inner(), acknowledged.into_inner())
}

#[test]
fn a_crash_at_any_moment_of_a_rewrite_leaves_one_good_file() {
    let mut crash = 0;
    loop {
        let sample = Sample::new("crash", Fsync::Always);
        // A crash: from one call on, all calls fail.
        sample.disk.fail("", crash..usize::MAX);
        let (has, acknowledged) = changes_and_a_rewrite(&sample);
        let calls = sample.disk.take_calls();
        let Sample { aof, disk, folder } = &sample;
        // When a server is killed, the operating system closes its file.
        let _ = aof.lock().writer.get_ref().unlock();
        disk.fail("", 0..0);
        let (_, found) = open(disk, options(folder, Fsync::Always));
        let message = format!("{calls:?}, the first {crash} succeed: {found:?}");
        assert!(acknowledged.iter().all(|n| found.contains(n)), "{message}");
        assert!(found.iter().all(|n| has.contains(n)), "{message}");
        if calls.len() <= crash {
            assert_eq!(acknowledged, [1, 2, 3, 5], "there was no crash");
            return;
        }
        crash += 1;
    }
}

#[test]
fn after_any_single_fault_changes_are_recorded_again_and_none_is_lost() {
    let mut fault = 0;
    loop {
        let sample = Sample::new("fault", Fsync::Always);
        sample.disk.fail("", fault..fault + 1);
        let (mut has, _) = changes_and_a_rewrite(&sample);
        sample.disk.fail("", 0..0);
        let calls = sample.disk.take_calls();
        if !sample.change(8) {
            // The log keeper rewrites the file. It need not wait for the next try here.
            sample.aof.lock().retry_at = Instant::now();
            assert!(sample.aof.maintain(), "{calls:?}, {fault} fails");
            sample.rewrite(&has).expect("the disk works again");
            assert!(sample.change(8), "{calls:?}, {fault} fails");
        }
        has.push(8);
        let mut found = sample.numbers();
        found.sort();
        found.dedup();
        assert_eq!(found, has, "{calls:?}, {fault} fails");
        let left = std::fs::read_dir(&sample.folder).expect("it is there");
        assert_eq!(left.count(), 1, "{calls:?}, {fault} fails");
        if calls.len() <= fault {
            return;
        }
        fault += 1;
    }
}

#[test]
fn part_of_a_record_that_a_failed_write_left_is_truncated_before_the_next_write() {
    let sample = Sample::new("torn", Fsync::Never);
    assert!(sample.change(1));
    let whole = sample.size();
    sample.disk.fail("write", 0..1);
    assert!(!sample.change(2));
    assert_eq!(sample.size(), whole, "the file is truncated at once");
    sample.disk.take_calls();
    assert!(sample.change(3));
    // The record that could not be written, and the new one. Nothing is left to truncate.
    assert_eq!(sample.disk.take_calls(), ["write aof", "write aof"]);

    // If the file cannot be truncated at once, it is truncated before the next write.
    let whole = sample.size();
    sample.disk.take_calls();
    sample.disk.fail("", 0..2);
    assert!(!sample.change(4));
    assert!(sample.size() > whole);
    assert!(sample.change(5));
    let calls = ["write aof", "truncate aof", "truncate aof", "write aof"];
    assert_eq!(sample.disk.take_calls()[..4], calls);
    assert_eq!(sample.numbers(), [1, 2, 3, 4, 5]);
}

/// Lets the file grow until it must be rewritten. This must happen when it reaches this size, and no earlier.
#[track_caller]
fn check_rewritten_at(sample: &Sample, size: u64) {
    let mut before = 0;
    while !sample.aof.maintain() {
        before = sample.size();
        assert!(before < size, "not at {before}");
        assert!(sample.change(1));
    }
    let now = sample.size();
    assert!(
        before < size && now >= size,
        "at {now}, and not at {before}"
    );
}

#[test]
fn a_file_is_rewritten_when_it_is_large_and_twice_as_large_as_after_the_last_rewrite() {
    let sample = Sample::new("threshold", Fsync::Never);
    check_rewritten_at(&sample, 1000);
    let many: Vec<u32> = (0..100).collect();
    sample.rewrite(&many).expect("it can be rewritten");
    let size = sample.size();
    assert!(size > 2000, "{size}");
    check_rewritten_at(&sample, 2 * size);
    // After a replay, the size is that of the items that are alive.
    sample.aof.set_base(4000);
    check_rewritten_at(&sample, 8000);
    sample.rewrite(&[1]).expect("it can be rewritten");
    check_rewritten_at(&sample, 1000);
}

#[test]
fn a_rewrite_that_failed_is_not_tried_again_at_once() {
    let sample = Sample::new("again", Fsync::Never);
    check_rewritten_at(&sample, 1000);
    sample.disk.fail("rename", 0..1);
    sample.rewrite(&[1]).expect_err("it cannot be renamed");
    assert!(sample.change(2) && !sample.aof.maintain());
    sample.aof.lock().retry_at = Instant::now();
    assert!(sample.aof.maintain());
}

#[test]
fn a_sync_that_fails_after_the_log_was_closed_does_not_reopen_it() {
    let sample = Sample::new("closed-meanwhile", Fsync::Never);
    while_a_sync_fails(&sample, || sample.aof.close());
    sample
        .rewrite(&[1])
        .expect_err("another server may have opened the file");
    assert!(!sample.change(2));
}

#[test]
fn after_closing_the_log_appending_is_refused() {
    let sample = Sample::new("closed", Fsync::EverySecond);
    assert!(sample.append(1));
    sample.aof.close();
    assert!(sample.flush(), "closing has flushed the record");
    assert!(!sample.append(2));
    assert_eq!(sample.numbers(), [1]);
}
