//! A store with its append-only file, without sockets. Commands go in, and answers come out. The clock stands still
//! until the test moves it. So a restart takes microseconds, and as many years can pass as a test needs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustmemc::internals::{
    Answer, Clients, Counts, Datastore, Events, Limits, Response, Service, Stats, UnixTime,
    Watchers, WhenFull, execute, parse, reserve,
};
use rustmemc::{AofOptions, Fsync, OpenError, Stopper};

use super::shortened;

/// The time at which a store is first opened. It is in the future, also for a server that reads the file later.
pub const NOW: UnixTime = 1_900_000_000;

/// A store with its append-only file.
pub struct Memory {
    service: Service,
    path: PathBuf,
    limit: usize,
}

/// Everything that must be the same after a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemState {
    pub value: String,
    pub flags: u32,
    pub cas: u64,
    /// When it expires, in unix time.
    pub expiry: Option<UnixTime>,
    pub stale: bool,
    /// Whether meta commands show the key in base64.
    pub binary_key: bool,
}

/// The item of each key.
pub type State = BTreeMap<String, ItemState>;

impl Memory {
    /// Opens a file as a starting server does, with enough memory for everything.
    #[track_caller]
    pub fn open(path: &Path, time: UnixTime) -> Self {
        Memory::open_within(path, time, 1 << 24)
    }

    /// The same with a memory limit, in bytes.
    #[track_caller]
    pub fn open_within(path: &Path, time: UnixTime, limit: usize) -> Self {
        Memory::try_open(path, time, limit).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The same for a file that may be refused.
    pub fn try_open(path: &Path, time: UnixTime, limit: usize) -> Result<Self, OpenError> {
        // When another test starts a process, there is for a moment a copy of this process. It has the same files open
        // and holds their locks. So the start waits for the lock.
        Memory::open_once(path, time, limit)
    }

    fn open_once(path: &Path, time: UnixTime, limit: usize) -> Result<Self, OpenError> {
        let stats = Arc::new(Stats::default());
        let watchers = Arc::new(Watchers::new(Arc::clone(&stats)));
        let limits = Limits {
            memory: limit,
            item: limit / 2,
            when_full: WhenFull::Evict,
        };
        let mut store = Datastore::new(limits, Arc::clone(&stats), Arc::clone(&watchers));
        store.clock().pause();
        move_clock(&store, time);
        // Nothing is synced, and the file is rewritten only when the test asks for it.
        let options = AofOptions {
            fsync: Fsync::Never,
            rewrite_size: 1,
            rewrite_growth: 0,
            ..AofOptions::new(path.to_owned())
        };
        store.open_log(options, || false)?;
        let service = Service {
            config: super::config("--no-aof"),
            started: time,
            store,
            stats,
            watchers,
            users: None,
            prefixes: Default::default(),
            is_crawler_disabled: false.into(),
            listening: Vec::new(),
            clients: Arc::new(Clients::new(1, Stopper::default())),
            verbosity: 0.into(),
        };
        Ok(Memory {
            service,
            path: path.to_owned(),
            limit,
        })
    }

    /// Stops, and starts again this number of seconds later.
    #[track_caller]
    pub fn restart(self, seconds: u32) -> Self {
        let (time, path, limit) = (self.now() + seconds, self.path.clone(), self.limit);
        drop(self);
        Memory::open_within(&path, time, limit)
    }

    /// Another store that replays a copy of this one's file, this number of seconds later. This store stays open.
    #[track_caller]
    pub fn successor(&self, seconds: u32) -> Self {
        let mut copy = self.path.clone().into_os_string();
        copy.push(".copy");
        std::fs::copy(&self.path, &copy).expect("the file can be copied");
        Memory::open_within(Path::new(&copy), self.now() + seconds, self.limit)
    }

    /// The bytes of the file.
    pub fn file(&self) -> Vec<u8> {
        super::folder::content(&self.path)
    }

    pub fn now(&self) -> UnixTime {
        self.service.store.clock().now()
    }

    /// Moves the clock forward. Expired items are swept, as they are every second in a server.
    pub fn pass(&self, seconds: u32) -> &Self {
        move_clock(&self.service.store, self.now() + seconds);
        self.service.store.sweep();
        self.write_log();
        self
    }

    /// Sets the clock back.
    pub fn turn_back(&self, seconds: u32) -> &Self {
        move_clock(&self.service.store, self.now() - seconds);
        self.service.store.sweep();
        self.write_log();
        self
    }

    /// What a connection does before it sends answers.
    fn write_log(&self) {
        self.service
            .store
            .before_answers()
            .expect("the file can be written");
    }

    /// Begins a rewrite, lets another thread remove the file and go on, and then ends the rewrite.
    pub fn rewrite_and_meanwhile(&self, meanwhile: impl FnOnce(&Self) + Send) {
        let mut meanwhile = Some(meanwhile);
        std::thread::scope(|scope| {
            let begun = std::sync::Mutex::new((0, meanwhile.take()));
            let stopping = || {
                let mut begun = begun.lock().expect("no test panics here");
                begun.0 += 1;
                // The second time it is asked for the first shard, and the rewrite has begun.
                if begun.0 == 2
                    && let Some(meanwhile) = begun.1.take()
                {
                    scope.spawn(move || meanwhile(self));
                    while self.path.exists() {
                        std::thread::yield_now();
                    }
                }
                false
            };
            self.service.store.maintain_log(stopping);
        });
    }

    /// Closes the log, as a server does that stops.
    pub fn close(&self) {
        self.service.store.close_log();
    }

    /// Rewrites the file.
    #[track_caller]
    pub fn rewrite(&self) -> &Self {
        let before = self.stat("aof_rewrites");
        self.service.store.maintain_log(|| false);
        assert_eq!(self.stat("aof_rewrites"), before + 1, "it is rewritten");
        self
    }

    /// One of the numbers about the file in `stats`.
    #[track_caller]
    pub fn stat(&self, name: &str) -> u64 {
        let stats = self.service.store.describe_log();
        let found = stats.iter().find(|(found, _)| found == name);
        let value = found.and_then(|(_, value)| value.parse().ok());
        value.unwrap_or_else(|| panic!("stats has no {name}"))
    }

    /// Executes commands and checks their answers.
    #[track_caller]
    pub fn check(&self, commands: impl AsRef<[u8]>, answers: impl AsRef<[u8]>) -> &Self {
        let (commands, answers) = (commands.as_ref(), answers.as_ref());
        let got = self.say(commands);
        assert!(
            got == answers,
            "to \"{}\"\n  expected \"{}\"\n  but got  \"{}\"",
            shortened(commands),
            shortened(answers),
            shortened(&got)
        );
        self
    }

    /// Executes whole commands, and returns all their answers.
    pub fn say(&self, commands: impl AsRef<[u8]>) -> Vec<u8> {
        let (mut rest, mut answers) = (commands.as_ref(), Vec::new());
        let (counts, mut room) = (Counts::default(), Vec::new());
        let events = Events::new(&self.service.watchers, 0);
        while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
            let (line, behind) = rest.split_at(end + 1);
            let parsed = parse(line);
            let (block, behind) = behind.split_at(parsed.data_length.map_or(0, |bytes| bytes + 2));
            rest = behind;
            let mut answer = |response: Response<'_>| match parsed.answer {
                Answer::Wanted => response.write(&mut answers),
                Answer::Noreply => Ok(()),
            };
            let outcome = parsed.request.and_then(|request| {
                let mut pending = reserve(&request, &self.service, &events)?;
                if let Some(pending) = &mut pending {
                    let value = block
                        .strip_suffix(b"\r\n")
                        .expect("a data block ends with a line end");
                    pending.item.value_mut().copy_from_slice(value);
                }
                Ok((request, pending))
            });
            match outcome {
                Ok((request, pending)) => execute(
                    &request,
                    pending,
                    &self.service,
                    &counts,
                    &events,
                    &mut room,
                    &mut answer,
                )
                .map(drop),
                Err(error) => answer(Response::Error(error)),
            }
            .expect("writing to a Vec does not fail");
        }
        assert!(
            rest.is_empty(),
            "\"{}\" is not a whole command",
            shortened(rest)
        );
        self.write_log();
        answers
    }

    /// The cas unique of a key's item.
    #[track_caller]
    pub fn cas(&self, key: &str) -> u64 {
        self.state()
            .get(key)
            .unwrap_or_else(|| panic!("{key} has no item"))
            .cas
    }

    /// All items.
    pub fn state(&self) -> State {
        let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
        let items = self.service.store.snapshot().flatten();
        items
            .map(|item| {
                let held = ItemState {
                    value: text(&item.value()),
                    flags: item.flags,
                    cas: item.cas,
                    expiry: item.expiry.time(),
                    stale: item.marks.stale,
                    binary_key: item.marks.binary_key,
                };
                (text(item.key()), held)
            })
            .collect()
    }
}

/// Checks that both states are the same. If they are not, it prints the items that only one of them has.
#[track_caller]
pub fn assert_same(got: &State, expected: &State, when: &str) {
    let only_in = |one: &State, other: &State| {
        let items = one
            .iter()
            .filter(|(key, held)| other.get(*key) != Some(held));
        items
            .map(|(key, held)| format!("  {key}: {held:?}\n"))
            .collect::<String>()
    };
    assert!(
        got == expected,
        "{when}: expected, but missing:\n{}not expected, but found:\n{}",
        only_in(expected, got),
        only_in(got, expected)
    );
}

/// Moves a clock that stands still to this second.
fn move_clock(store: &Datastore, time: UnixTime) {
    let clock = store.clock();
    // A jump starts from the time that the clock would show if it had not stood still.
    while clock.now() != time {
        clock.jump(i64::from(time) - i64::from(clock.now()));
    }
}
