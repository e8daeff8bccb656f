//! The algorithms that `hits.rs` simulates: each decides which key is evicted. They are written to be read and
//! compared, and are not fast. All items have the same size here, so the queues hold only keys.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::common::Key;

/// An algorithm that decides which key is evicted.
pub trait Algorithm: Default {
    /// Records a request, and returns whether it is a hit.
    fn hit(&mut self, key: Key) -> bool;
    /// Inserts a key after a miss.
    fn insert(&mut self, key: Key);
    /// Evicts one key. There is at least one.
    fn evict(&mut self);
    fn len(&self) -> usize;
}

/// Evicts the key that was requested longest ago. A key is in the queue once for every request, but only its last place
/// counts.
#[derive(Default)]
pub struct Lru {
    last_request: HashMap<Key, u64>,
    queue: VecDeque<(Key, u64)>,
    time: u64,
}

impl Algorithm for Lru {
    fn hit(&mut self, key: Key) -> bool {
        let is_hit = self.last_request.contains_key(&key);
        if is_hit {
            self.insert(key);
        }
        is_hit
    }

    fn insert(&mut self, key: Key) {
        self.time += 1;
        self.last_request.insert(key, self.time);
        self.queue.push_back((key, self.time));
    }

    fn evict(&mut self) {
        while let Some((key, time)) = self.queue.pop_front() {
            if self.last_request.get(&key) == Some(&time) {
                self.last_request.remove(&key);
                return;
            }
        }
    }

    fn len(&self) -> usize {
        self.last_request.len()
    }
}

/// A queue, and for each key a count of its requests, up to `MOST`. If the key at the front has a count above 0, the
/// count is reduced by one and the key is moved to the back. Otherwise the key is evicted. With `MOST` = 1 this is a
/// FIFO queue with a second chance, and with 0 a plain FIFO queue.
#[derive(Default)]
pub struct Clock<const MOST: u8> {
    requests: HashMap<Key, u8>,
    queue: VecDeque<Key>,
}

impl<const MOST: u8> Algorithm for Clock<MOST> {
    fn hit(&mut self, key: Key) -> bool {
        let requests = self.requests.get_mut(&key);
        requests
            .map(|requests| *requests = MOST.min(*requests + 1))
            .is_some()
    }

    fn insert(&mut self, key: Key) {
        self.requests.insert(key, 0);
        self.queue.push_back(key);
    }

    fn evict(&mut self) {
        while let Some(key) = self.queue.pop_front() {
            match self.requests.get_mut(&key) {
                Some(requests) if *requests > 0 => {
                    *requests -= 1;
                    self.queue.push_back(key);
                }
                _ => {
                    self.requests.remove(&key);
                    return;
                }
            }
        }
    }

    fn len(&self) -> usize {
        self.queue.len()
    }
}

/// As `Clock<1>`, but a key that is not evicted stays in its place, and the hand moves on to the newer keys (Zhang et
/// al., NSDI 2024).
#[derive(Default)]
pub struct Sieve {
    /// For each key its place in the queue, and whether it was requested.
    places: HashMap<Key, (u64, bool)>,
    queue: BTreeMap<u64, Key>,
    hand: u64,
    time: u64,
}

impl Algorithm for Sieve {
    fn hit(&mut self, key: Key) -> bool {
        let place = self.places.get_mut(&key);
        place.map(|(_, requested)| *requested = true).is_some()
    }

    fn insert(&mut self, key: Key) {
        self.time += 1;
        self.places.insert(key, (self.time, false));
        self.queue.insert(self.time, key);
    }

    fn evict(&mut self) {
        loop {
            let next = self.queue.range(self.hand..).next();
            // After the newest key follows the oldest.
            let Some((&place, &key)) = next.or_else(|| self.queue.first_key_value()) else {
                return;
            };
            self.hand = place + 1;
            match self.places.get_mut(&key) {
                Some((_, requested)) if *requested => *requested = false,
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

/// New keys are in a small queue, `SMALL` per cent of all. Requests are counted up to `MOST`. When a key reaches the
/// front of the small queue, it is moved to the main queue if it was requested more than `ENOUGH` times there.
/// Otherwise it is evicted and becomes a ghost: if it is inserted again, it is in the main queue at once. The number of
/// ghosts is `GHOSTS` per cent of the number of items. As published (Yang et al., SOSP 2023) the four parameters are
/// 10, 3, 1 and 90.
#[derive(Default)]
pub struct S3Fifo<const SMALL: usize, const MOST: u8, const ENOUGH: u8, const GHOSTS: usize> {
    requests: HashMap<Key, u8>,
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
        let requests = self.requests.get_mut(&key);
        requests
            .map(|requests| *requests = MOST.min(*requests + 1))
            .is_some()
    }

    fn insert(&mut self, key: Key) {
        self.requests.insert(key, 0);
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
            match self.requests.get_mut(&key) {
                Some(requests) if from_small && *requests > ENOUGH => {
                    *requests = 0;
                    self.main.push_back(key);
                }
                Some(requests) if !from_small && *requests > 0 => {
                    *requests -= 1;
                    self.main.push_back(key);
                }
                _ => {
                    self.requests.remove(&key);
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

/// Two queues with a second chance as in S3-FIFO with one bit, but the ghosts decide how long the small queue should
/// be. When a ghost of the small queue is inserted again, the small queue becomes longer by `STEP`; when a ghost of the
/// main queue is inserted again, it becomes shorter. A ghost is forgotten when there are newer ghosts of its kind,
/// `GHOSTS` per cent of the number of items. Close to CAR (Bansal and Modha, FAST 2004).
#[derive(Default)]
pub struct Car<const STEP: usize, const GHOSTS: usize> {
    requested: HashMap<Key, bool>,
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
        let requested = self.requested.get_mut(&key);
        requested.map(|requested| *requested = true).is_some()
    }

    fn insert(&mut self, key: Key) {
        self.requested.insert(key, false);
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
            let from_small = self.main.is_empty() || self.small.len() >= self.small_goal.max(1);
            let (queue, time) = match from_small {
                true => (&mut self.small, &mut self.from_small),
                false => (&mut self.main, &mut self.from_main),
            };
            let Some(key) = queue.pop_front() else {
                return;
            };
            match self.requested.get_mut(&key) {
                Some(requested) if *requested => {
                    *requested = false;
                    self.main.push_back(key);
                }
                _ => {
                    self.requested.remove(&key);
                    self.ghosts.insert(key, (from_small, *time));
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

/// What the server does. New keys are in a probation queue. When a key reaches its front, it is moved to the main queue
/// if it was requested there, and evicted otherwise. A requested key at the front of the main queue is moved to its
/// end. In `TURNS` of five evictions the main queue comes first, if it has more than `LEAST` per cent of all keys.
#[derive(Default)]
pub struct Probation<const TURNS: usize, const LEAST: usize> {
    requested: HashMap<Key, bool>,
    probation: VecDeque<Key>,
    main: VecDeque<Key>,
    evictions: usize,
}

impl<const TURNS: usize, const LEAST: usize> Algorithm for Probation<TURNS, LEAST> {
    fn hit(&mut self, key: Key) -> bool {
        let requested = self.requested.get_mut(&key);
        requested.map(|requested| *requested = true).is_some()
    }

    fn insert(&mut self, key: Key) {
        self.requested.insert(key, false);
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
            match self.requested.get_mut(&key) {
                Some(requested) if *requested => {
                    *requested = false;
                    self.main.push_back(key);
                }
                _ => {
                    self.requested.remove(&key);
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
