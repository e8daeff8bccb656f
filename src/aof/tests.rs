//! The log by itself: what is pending, what is written, and a file that cannot be written for a while.

use std::io::BufWriter;
use std::sync::Arc;

use super::*;

/// A log in a folder of its own.
struct Sample {
    aof: Aof,
    folder: PathBuf,
}

impl Sample {
    fn new(name: &str, fsync: Fsync) -> Sample {
        let name = format!("rustmemc-{name}-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).expect("a folder can be made");
        let options = Options {
            path: folder.join("aof"),
            fsync,
            rewrite_size: u64::MAX,
            rewrite_growth: 2,
            repair: false,
        };
        let (aof, _) = Aof::open(options, |_| {}, || false).expect("a new file can be opened");
        Sample { aof, folder }
    }

    /// Appends a record that can be told from others; whether it may be.
    fn append(&self, number: u32) -> bool {
        self.aof
            .append([Record::FlushAt(number)].into_iter())
            .is_ok()
    }

    fn hand_over(&self) -> bool {
        self.aof.before_answers().is_ok()
    }

    /// Takes the file away, or gives it back: what is open for reading only cannot be written.
    fn exchange(&self, file: Arc<File>) -> Arc<File> {
        let writer = &mut self.aof.lock().writer;
        let old = std::mem::replace(writer, BufWriter::new(file));
        Arc::clone(old.get_ref())
    }

    fn take_away(&self) -> Arc<File> {
        let file = File::open(self.folder.join("aof")).expect("it is there");
        self.exchange(Arc::new(file))
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
                number.parse::<u32>().expect("a number") - 1
            })
            .collect()
    }
}

impl Drop for Sample {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn what_was_appended_is_in_the_file_before_answers_leave() {
    let sample = Sample::new("before-answers", Fsync::Never);
    assert!(sample.append(7) && sample.append(8) && sample.hand_over());
    assert_eq!(sample.numbers(), [7, 8]);
}

#[test]
fn what_nobody_waits_for_is_in_the_file_when_it_is_looked_after() {
    let sample = Sample::new("tend", Fsync::Never);
    assert!(sample.append(7));
    sample.aof.tend();
    assert_eq!(sample.numbers(), [7]);
}

#[test]
fn what_could_not_be_written_waits_in_order_and_nothing_is_added_until_it_can() {
    for fsync in [Fsync::Never, Fsync::Always] {
        let sample = Sample::new(&format!("stuck-{fsync}"), fsync);
        assert!(sample.append(1) && sample.hand_over());
        let file = sample.take_away();
        // Nobody can know yet.
        assert!(sample.append(2) && sample.append(3));
        assert!(!sample.hand_over() && !sample.hand_over());
        assert!(!sample.append(4) && !sample.hand_over());
        assert_eq!(sample.numbers(), [1]);
        sample.exchange(file);
        assert!(sample.append(5) && sample.hand_over());
        assert_eq!(sample.numbers(), [1, 2, 3, 5]);
    }
}

#[test]
fn in_a_rewrite_each_copy_comes_behind_what_was_pending_and_before_what_comes_later() {
    let sample = Sample::new("pending-rewrite", Fsync::Never);
    assert!(sample.append(1), "which is part of what is copied");
    sample.aof.begin_rewrite(|| 1).expect("it can begin");
    assert!(sample.append(2));
    sample
        .aof
        .copy([Record::FlushAt(3)].into_iter())
        .expect("it can be copied");
    assert!(sample.append(4) && sample.hand_over());
    assert_eq!(sample.numbers(), [1, 2, 4], "the old file has all as well");
    assert!(sample.append(5));
    sample.aof.finish_rewrite().expect("it can be finished");
    assert!(sample.append(6) && sample.hand_over());
    assert_eq!(sample.numbers(), [2, 3, 4, 5, 6]);
}

#[test]
fn a_rewrite_takes_the_place_of_what_could_not_be_written() {
    let sample = Sample::new("stuck-rewrite", Fsync::Always);
    sample.take_away();
    assert!(sample.append(1) && !sample.hand_over());
    sample
        .aof
        .begin_rewrite(|| 1)
        .and_then(|()| sample.aof.copy([Record::FlushAt(1)].into_iter()))
        .expect("the new file can be written");
    assert!(!sample.append(2), "the old one cannot");
    sample
        .aof
        .finish_rewrite()
        .expect("the new file can take its place");
    assert!(sample.hand_over() && sample.append(3) && sample.hand_over());
    assert_eq!(sample.numbers(), [1, 3]);
}

#[test]
fn more_than_may_be_pending_is_written_by_who_adds_to_it() {
    let sample = Sample::new("most-pending", Fsync::Never);
    let mut number = 0;
    while sample.numbers().is_empty() {
        number += 1;
        assert!(sample.append(number));
        let pending = lock(&sample.aof.pending).bytes.len();
        assert!(pending < MOST_PENDING + 100, "{pending} bytes are pending");
    }
    assert!(sample.hand_over());
    assert!(sample.numbers().into_iter().eq(1..=number));
}

#[test]
fn after_a_failed_sync_nothing_is_appended_until_there_is_a_new_file() {
    let sample = Sample::new("unsure", Fsync::Always);
    let aof = &sample.aof;
    // As a sync that fails leaves it.
    aof.lock().unsure = true;
    lock(&aof.pending).stuck = true;
    assert!(!sample.append(1) && !sample.hand_over());
    assert!(aof.tend(), "it is time for a rewrite, whatever the size");
    aof.begin_rewrite(|| 7)
        .and_then(|()| aof.finish_rewrite())
        .expect("a new file can be made");
    assert!(sample.append(2) && sample.hand_over());
    assert_eq!(sample.numbers(), [2]);
}

#[test]
fn who_comes_after_the_end_is_refused() {
    let sample = Sample::new("closed", Fsync::EverySecond);
    assert!(sample.append(1));
    sample.aof.close();
    assert!(sample.hand_over(), "it was handed over at the end");
    assert!(!sample.append(2));
    assert_eq!(sample.numbers(), [1]);
}
