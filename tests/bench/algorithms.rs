//! The algorithms that `hits.rs` simulates: each decides which key goes when room is needed. Written to be read
//! and compared, not to be fast: sizes are all alike here, so the queues hold keys only.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::common::Key;

/// What decides who goes.
pub trait Algorithm: Default {
    /// Notes a request; whether the key was there.
    fn hit(&mut self, key: Key) -> bool;
    /// Takes in a key that was not there.
    fn insert(&mut self, key: Key);
    /// Removes one key. There is at least one.
    fn evict(&mut self);
    fn len(&self) -> usize;
}

/// The key that was asked for longest ago goes. A key stands in the queue once for every request; only its
/// last place counts.
#[derive(Default)]
pub struct Lru {
    last: HashMap<Key, u64>,
    queue: VecDeque<(Key, u64)>,
    time: u64,
}

impl Algorithm for Lru {
    fn hit(&mut self, key: Key) -> bool {
        let known = self.last.contains_key(&key);
        if known {
            self.insert(key);
        }
        known
    }

    fn insert(&mut self, key: Key) {
        self.time += 1;
        self.last.insert(key, self.time);
        self.queue.push_back((key, self.time));
    }

    fn evict(&mut self) {
        while let Some((key, time)) = self.queue.pop_front() {
            if self.last.get(&key) == Some(&time) {
                self.last.remove(&key);
                return;
            }
        }
    }

    fn len(&self) -> usize {
        self.last.len()
    }
}

/// A queue, and a count of requests up to `MOST` with each key: whoever comes to the front and has been asked
/// for goes to the back with one less; the others go. With 1 it is the FIFO queue with a second chance, and
/// with 0 the plain one.
#[derive(Default)]
pub struct Clock<const MOST: u8> {
    asked: HashMap<Key, u8>,
    queue: VecDeque<Key>,
}

impl<const MOST: u8> Algorithm for Clock<MOST> {
    fn hit(&mut self, key: Key) -> bool {
        let asked = self.asked.get_mut(&key);
        asked.map(|asked| *asked = MOST.min(*asked + 1)).is_some()
    }

    fn insert(&mut self, key: Key) {
        self.asked.insert(key, 0);
        self.queue.push_back(key);
    }

    fn evict(&mut self) {
        while let Some(key) = self.queue.pop_front() {
            match self.asked.get_mut(&key) {
                Some(asked) if *asked > 0 => {
                    *asked -= 1;
                    self.queue.push_back(key);
                }
                _ => {
                    self.asked.remove(&key);
                    return;
                }
            }
        }
    }

    fn len(&self) -> usize {
        self.queue.len()
    }
}

/// As `Clock<1>`, but whoever is spared stays where it is, and the hand goes on from there to the newer ones
/// (Zhang et al., NSDI 2024).
#[derive(Default)]
pub struct Sieve {
    /// With each key its place in the queue, and whether it was asked for.
    places: HashMap<Key, (u64, bool)>,
    queue: BTreeMap<u64, Key>,
    hand: u64,
    time: u64,
}

impl Algorithm for Sieve {
    fn hit(&mut self, key: Key) -> bool {
        let place = self.places.get_mut(&key);
        place.map(|(_, asked)| *asked = true).is_some()
    }

    fn insert(&mut self, key: Key) {
        self.time += 1;
        self.places.insert(key, (self.time, false));
        self.queue.insert(self.time, key);
    }

    fn evict(&mut self) {
        loop {
            let next = self.queue.range(self.hand..).next();
            // Past the newest it begins again with the oldest.
            let Some((&place, &key)) = next.or_else(|| self.queue.first_key_value()) else {
                return;
            };
            self.hand = place + 1;
            match self.places.get_mut(&key) {
                Some((_, asked)) if *asked => *asked = false,
                _ => {
                    self.queue.remove(&place);
                    self.places.remove(&key);
                    return;
                }
            }
        }
    }

    fn len(&self) -> usize {
        self.queue.len()
    }
}

/// A small queue, `SMALL` per cent, for those that have just come; a main one for those that were asked for
/// more than `ENOUGH` times while they were in the first; and the ghosts, `GHOSTS` per cent of the number of
/// items, of those that were not: if they come again they go straight to the main one. As published (Yang et
/// al., SOSP 2023) it is 10 per cent, a count up to 3, more than 1, and 90 per
/// cent.
#[derive(Default)]
pub struct S3Fifo<const SMALL: usize, const MOST: u8, const ENOUGH: u8, const GHOSTS: usize> {
    asked: HashMap<Key, u8>,
    small: VecDeque<Key>,
    main: VecDeque<Key>,
    /// When a key became a ghost, counted in ghosts.
    ghosts: HashMap<Key, usize>,
    time: usize,
}

impl<const SMALL: usize, const MOST: u8, const ENOUGH: u8, const GHOSTS: usize> Algorithm
    for S3Fifo<SMALL, MOST, ENOUGH, GHOSTS>
{
    fn hit(&mut self, key: Key) -> bool {
        let asked = self.asked.get_mut(&key);
        asked.map(|asked| *asked = MOST.min(*asked + 1)).is_some()
    }

    fn insert(&mut self, key: Key) {
        self.asked.insert(key, 0);
        let remembered = self
            .ghosts
            .remove(&key)
            .is_some_and(|time| self.time - time < self.len() * GHOSTS / 100);
        if remembered {
            self.main.push_back(key);
        } else {
            self.small.push_back(key);
        }
    }

    fn evict(&mut self) {
        loop {
            let from_small = self.small.len() * 100 >= self.len() * SMALL;
            let queue = if from_small {
                &mut self.small
            } else {
                &mut self.main
            };
            let Some(key) = queue.pop_front() else {
                return;
            };
            match self.asked.get_mut(&key) {
                Some(asked) if from_small && *asked > ENOUGH => {
                    *asked = 0;
                    self.main.push_back(key);
                }
                Some(asked) if !from_small && *asked > 0 => {
                    *asked -= 1;
                    self.main.push_back(key);
                }
                _ => {
                    self.asked.remove(&key);
                    if from_small {
                        self.ghosts.insert(key, self.time);
                        self.time += 1;
                    }
                    return;
                }
            }
        }
    }

    fn len(&self) -> usize {
        self.small.len() + self.main.len()
    }
}

/// Two queues with a second chance as in S3-FIFO with one bit, but how long the small one should be follows the
/// ghosts: one of the small queue that comes again makes it longer by `STEP`, one of the main queue makes it
/// shorter. Each kind of ghost is remembered for as long as it takes `GHOSTS` per cent of the items to become
/// such ghosts too. Close to CAR (Bansal and Modha, FAST 2004).
#[derive(Default)]
pub struct Car<const STEP: usize, const GHOSTS: usize> {
    asked: HashMap<Key, bool>,
    small: VecDeque<Key>,
    main: VecDeque<Key>,
    /// Whether a key became a ghost in the small queue, and when, counted in ghosts of its kind.
    ghosts: HashMap<Key, (bool, usize)>,
    from_small: usize,
    from_main: usize,
    small_goal: usize,
}

impl<const STEP: usize, const GHOSTS: usize> Algorithm for Car<STEP, GHOSTS> {
    fn hit(&mut self, key: Key) -> bool {
        let asked = self.asked.get_mut(&key);
        asked.map(|asked| *asked = true).is_some()
    }

    fn insert(&mut self, key: Key) {
        self.asked.insert(key, false);
        let remembered = self.len() * GHOSTS / 100;
        let queue = match self.ghosts.remove(&key) {
            Some((true, time)) if self.from_small - time < remembered => {
                self.small_goal += STEP;
                &mut self.main
            }
            Some((false, time)) if self.from_main - time < remembered => {
                self.small_goal = self.small_goal.saturating_sub(STEP);
                &mut self.main
            }
            _ => &mut self.small,
        };
        queue.push_back(key);
        // Neither queue gets less than a tenth.
        let tenth = self.len() / 10;
        self.small_goal = self.small_goal.clamp(tenth, 9 * tenth);
    }

    fn evict(&mut self) {
        loop {
            let small = self.main.is_empty() || self.small.len() >= self.small_goal.max(1);
            let (queue, time) = match small {
                true => (&mut self.small, &mut self.from_small),
                false => (&mut self.main, &mut self.from_main),
            };
            let Some(key) = queue.pop_front() else {
                return;
            };
            match self.asked.get_mut(&key) {
                Some(asked) if *asked => {
                    *asked = false;
                    self.main.push_back(key);
                }
                _ => {
                    self.asked.remove(&key);
                    self.ghosts.insert(key, (small, *time));
                    *time += 1;
                    return;
                }
            }
        }
    }

    fn len(&self) -> usize {
        self.small.len() + self.main.len()
    }
}

/// What the server does: a probation queue for those that have come and a main one for those that were asked for
/// meanwhile, both with a second chance. In `TURNS` of five evictions the hand of the main queue looks at one key
/// first, as long as more than `LEAST` per cent of all are there.
#[derive(Default)]
pub struct Probation<const TURNS: usize, const LEAST: usize> {
    asked: HashMap<Key, bool>,
    probation: VecDeque<Key>,
    main: VecDeque<Key>,
    evictions: usize,
}

impl<const TURNS: usize, const LEAST: usize> Algorithm for Probation<TURNS, LEAST> {
    fn hit(&mut self, key: Key) -> bool {
        let asked = self.asked.get_mut(&key);
        asked.map(|asked| *asked = true).is_some()
    }

    fn insert(&mut self, key: Key) {
        self.asked.insert(key, false);
        self.probation.push_back(key);
    }

    fn evict(&mut self) {
        self.evictions += 1;
        let main_is_long = self.main.len() * 100 > self.len() * LEAST;
        let mut from_main = self.evictions % 5 < TURNS && main_is_long;
        loop {
            let queue = if from_main {
                &mut self.main
            } else {
                &mut self.probation
            };
            let Some(key) = queue.pop_front() else {
                return;
            };
            match self.asked.get_mut(&key) {
                Some(asked) if *asked => {
                    *asked = false;
                    self.main.push_back(key);
                }
                _ => {
                    self.asked.remove(&key);
                    return;
                }
            }
            from_main = self.probation.is_empty();
        }
    }

    fn len(&self) -> usize {
        self.probation.len() + self.main.len()
    }
}
