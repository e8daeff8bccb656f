//! A queue of items in which each has a number by which it is found: who stands where is all that there is to
//! know about who goes first, so nothing has to be kept beside the items.
//!
//! Items stand in chunks, and the texts of the small items of a chunk in one block: that saves each of them an
//! allocation, and since who came together mostly goes together, memory comes free in pieces that something else
//! can use. Thousands of small holes were measured to make the process twice as large as `-m` says when items of
//! another size came.

use std::collections::VecDeque;

use super::entry::{Block, Entry, Kept, View};
use crate::item::Expiry;
use crate::item::{Marks, charge_of_text};

/// So many items stand together: a queue that grows does not move those that are there, and has little more room
/// than it needs.
const CHUNK: usize = 64;

/// Texts of up to so many bytes are packed. Larger ones stay where they were read to.
const SMALL: usize = 256;

/// What a block has room for at first. The allocator keeps what is smaller than 1 KB for the thread that frees it,
/// and by that many small pieces would stay between those that are free.
const BLOCK: usize = 1100;

/// Some items that came one after the other.
#[derive(Debug)]
struct Chunk {
    entries: Vec<Option<Entry>>,
    /// The texts of the small ones.
    block: Block,
}

impl Chunk {
    /// An empty chunk; the first one grows as it is filled, so that a few items do not take much.
    fn new(is_first: bool) -> Self {
        let (entries, block) = if is_first { (0, 0) } else { (CHUNK, BLOCK) };
        Chunk {
            entries: Vec::with_capacity(entries),
            block: Block::Open(Vec::with_capacity(block)),
        }
    }

    fn view(&self, place: usize) -> Option<View<'_>> {
        let (entry, block) = (self.entries.get(place)?.as_ref()?, &self.block);
        Some(View { entry, block })
    }

    /// Takes one more in. There is a place.
    fn push(&mut self, mut entry: Entry) {
        if let Block::Open(block) = &mut self.block
            && let Kept::Own(text) = entry.kept()
            && text.len() <= SMALL
        {
            let start = block.len() as u32;
            block.extend_from_slice(text);
            let end = block.len() as u32;
            entry.keep(Kept::Packed { start, end });
        }
        self.entries.push(Some(entry));
        if let Block::Open(block) = &mut self.block
            && self.entries.len() == CHUNK
        {
            self.block = Block::Full(std::mem::take(block).into());
        }
    }
}

/// Items in the order in which they came. One that is removed leaves a hole, until it is at the front or there
/// are too many.
///
/// Invariants: the front is no hole; all chunks but the last are full of items and holes; the number of what
/// stands in the very first place of all is `first`, the others follow, modulo [`Queue::NUMBERS`].
#[derive(Debug, Default)]
pub struct Queue {
    chunks: VecDeque<Chunk>,
    first: u32,
    /// How many of the first places are holes that the front has left behind.
    gone: usize,
    len: usize,
    /// How much memory the texts take, blocks and others.
    texts: usize,
}

impl Queue {
    /// How many numbers there are: then they begin again with 0.
    pub const NUMBERS: u32 = 1 << 31;

    /// Lets an item stand at the end. Gives its number.
    pub fn push(&mut self, entry: Entry) -> u32 {
        let place = self.places();
        if place.is_multiple_of(CHUNK) {
            let chunk = Chunk::new(place == 0);
            self.texts += chunk.block.size();
            self.chunks.push_back(chunk);
        }
        if let Some(chunk) = self.chunks.back_mut() {
            let before = chunk.block.size();
            chunk.push(entry);
            let pushed = chunk.entries.last().and_then(Option::as_ref);
            self.texts += chunk.block.size() + pushed.map_or(0, own_size);
            self.texts -= before;
            self.len += 1;
        }
        self.number(place)
    }

    /// The first item and its number.
    pub fn front(&self) -> Option<(u32, View<'_>)> {
        let view = self.chunks.front()?.view(self.gone)?;
        Some((self.number(self.gone), view))
    }

    /// The item of a number.
    pub fn get(&self, number: u32) -> Option<View<'_>> {
        let place = self.place(number);
        self.chunks.get(place / CHUNK)?.view(place % CHUNK)
    }

    /// Changes what is not in the text of an item.
    pub fn update(&mut self, number: u32, expiry: Expiry, marks: Marks) {
        if let Some(entry) = self.place_mut(number).and_then(Option::as_mut) {
            entry.update(expiry, marks);
        }
    }

    /// Puts an item in the place of another that is one of the last, if its text is just as long and no reader shares
    /// the other: then nothing moves. Otherwise gives it back. (Where older ones are, it would go too soon.)
    pub fn overwrite(&mut self, number: u32, mut entry: Entry) -> Option<Entry> {
        let place = self.place(number);
        let is_last = place / CHUNK + 1 == self.chunks.len();
        if let Some(chunk) = self.chunks.back_mut().filter(|_| is_last)
            && let Some(Some(old)) = chunk.entries.get_mut(place % CHUNK)
            && let &Kept::Packed { start, end } = old.kept()
            && let Kept::Own(text) = entry.kept()
            && let Some(block) = chunk.block.bytes_mut()
            && let Some(room) = block.get_mut(start as usize..end as usize)
            && room.len() == text.len()
        {
            room.copy_from_slice(text);
            entry.keep(Kept::Packed { start, end });
            *old = entry;
            return None;
        }
        Some(entry)
    }

    /// Takes an item out. The others keep their numbers.
    pub fn remove(&mut self, number: u32) -> bool {
        let Some(entry) = self.place_mut(number).and_then(Option::take) else {
            return false;
        };
        self.texts -= own_size(&entry);
        self.len -= 1;
        self.advance();
        true
    }

    /// Takes an item out, with its text. The others keep their numbers.
    pub fn take(&mut self, number: u32) -> Option<Entry> {
        let entry = self.take_from(self.place(number));
        self.advance();
        entry
    }

    /// Takes out all for which `goes` says so. The others keep their numbers.
    pub fn remove_where(&mut self, mut goes: impl FnMut(&Entry) -> bool) {
        for place in self.chunks.iter_mut().flat_map(|chunk| &mut chunk.entries) {
            if let Some(entry) = place
                && goes(entry)
            {
                self.texts -= own_size(entry);
                self.len -= 1;
                *place = None;
            }
        }
        self.advance();
    }

    /// The items, in order.
    pub fn iter(&self) -> impl Iterator<Item = View<'_>> {
        let views = |chunk| (0..CHUNK).filter_map(move |place| Chunk::view(chunk, place));
        self.chunks.iter().flat_map(views)
    }

    /// How many items there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// How much memory it all takes.
    pub fn size(&self) -> usize {
        const ENTRY: usize = size_of::<Option<Entry>>();
        let last = self
            .chunks
            .back()
            .map_or(CHUNK, |chunk| chunk.entries.capacity());
        let entries = (self.chunks.len() * CHUNK + last - CHUNK) * ENTRY;
        self.texts + entries + self.chunks.capacity() * size_of::<Chunk>()
    }

    /// Closes the holes if they are more than one to `items` items. Then the items have other numbers, and whoever
    /// keeps numbers is told the new one of each.
    pub fn tidy(&mut self, items: usize, renumber: impl FnOnce(&dyn Fn(u32) -> u32)) {
        if self.places() - self.gone - self.len <= CHUNK + self.len / items {
            return;
        }
        let (old_first, places) = (self.first, self.places());
        let (mut new, mut numbers) = (Queue::default(), Vec::with_capacity(places));
        for place in 0..places {
            let entry = self.take_from(place);
            numbers.push(entry.map_or(0, |entry| new.push(entry)));
        }
        renumber(&|number| {
            let place = number.wrapping_sub(old_first) % Self::NUMBERS;
            numbers.get(place as usize).copied().unwrap_or(0)
        });
        *self = new;
    }

    /// Takes out what stands there; [`Queue::advance`] is still to be called.
    fn take_from(&mut self, place: usize) -> Option<Entry> {
        let chunk = self.chunks.get_mut(place / CHUNK)?;
        let text = chunk.view(place % CHUNK)?.own_text();
        let mut entry = chunk.entries.get_mut(place % CHUNK)?.take()?;
        self.texts -= own_size(&entry);
        self.len -= 1;
        entry.keep(Kept::Own(text));
        Some(entry)
    }

    /// Lets the front be an item again, and gives free what is behind it. Where no item is left, numbers begin anew.
    fn advance(&mut self) {
        if self.len == 0 {
            *self = Queue::default();
        }
        while let Some(chunk) = self.chunks.front() {
            let entries = chunk.entries.iter().skip(self.gone);
            self.gone += entries.take_while(|place| place.is_none()).count();
            if self.gone < CHUNK {
                break;
            }
            self.texts -= chunk.block.size();
            self.first = self.number(CHUNK);
            self.gone = 0;
            self.chunks.pop_front();
        }
        if self.chunks.capacity() > 8 + 2 * self.chunks.len() {
            self.chunks.shrink_to_fit();
        }
    }

    /// How many places there are, holes too.
    fn places(&self) -> usize {
        match self.chunks.back() {
            Some(last) => (self.chunks.len() - 1) * CHUNK + last.entries.len(),
            None => 0,
        }
    }

    fn place(&self, number: u32) -> usize {
        (number.wrapping_sub(self.first) % Self::NUMBERS) as usize
    }

    fn place_mut(&mut self, number: u32) -> Option<&mut Option<Entry>> {
        let place = self.place(number);
        let chunk = self.chunks.get_mut(place / CHUNK)?;
        chunk.entries.get_mut(place % CHUNK)
    }

    fn number(&self, place: usize) -> u32 {
        self.first.wrapping_add(place as u32) % Self::NUMBERS
    }
}

/// How much memory an entry has beside its place and its chunk's block.
fn own_size(entry: &Entry) -> usize {
    match entry.kept() {
        Kept::Own(text) => charge_of_text(text.len()),
        Kept::Packed { .. } => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::item::Item;

    fn entry(key: usize) -> Entry {
        let key = key.to_string();
        Entry::new(Item::new(key.as_bytes(), 0, Expiry::NEVER, &[]), 0, 0)
    }

    fn keys(queue: &Queue) -> Vec<String> {
        let key = |view: View<'_>| String::from_utf8_lossy(view.key()).into_owned();
        queue.iter().map(key).collect()
    }

    #[test]
    fn items_keep_their_numbers_while_others_come_and_go() {
        let mut queue = Queue::default();
        let numbers: Vec<_> = (0..10).map(|key| queue.push(entry(key))).collect();
        for gone in [0, 1, 4, 9] {
            assert!(queue.remove(numbers[gone]));
        }
        assert!(!queue.remove(numbers[4]));
        assert_eq!(keys(&queue), ["2", "3", "5", "6", "7", "8"]);
        assert_eq!(queue.front().map(|(number, _)| number), Some(numbers[2]));
        let key = queue.get(numbers[7]).map(View::key);
        assert_eq!((key, queue.len()), (Some(&b"7"[..]), 6));
    }

    #[test]
    fn numbers_begin_again_when_there_are_no_more() {
        let mut queue = Queue {
            first: Queue::NUMBERS - 2,
            ..Queue::default()
        };
        let numbers: Vec<_> = (0..4).map(|key| queue.push(entry(key))).collect();
        assert_eq!(numbers, [Queue::NUMBERS - 2, Queue::NUMBERS - 1, 0, 1]);
        queue.remove(numbers[0]);
        queue.remove(numbers[1]);
        queue.remove(numbers[2]);
        assert_eq!(queue.front().map(|(number, _)| number), Some(1));
    }

    #[test]
    fn many_holes_are_closed_and_the_memory_of_many_items_does_not_stay_with_a_few() {
        let mut queue = Queue::default();
        let mut numbers: Vec<_> = (0..1000).map(|key| queue.push(entry(key))).collect();
        let full = queue.size();
        for (number, key) in numbers.iter().zip(0..) {
            if key % 10 != 7 {
                queue.remove(*number);
            }
        }
        let mut left: Vec<_> = numbers.drain(..).skip(7).step_by(10).collect();
        queue.tidy(2, |new| {
            left.iter_mut().for_each(|number| *number = new(*number))
        });
        assert_eq!((queue.len(), queue.places()), (100, 100));
        assert!(queue.size() < full / 7, "{} of {full}", queue.size());
        let key = queue.get(left[42]).map(View::key);
        assert_eq!(key, Some(&b"427"[..]));
        left.iter()
            .for_each(|&number| assert!(queue.remove(number)));
        queue.tidy(2, |_| {});
        assert_eq!((queue.len(), queue.size()), (0, 0));
    }

    #[test]
    fn small_texts_are_packed_and_nothing_changes_but_the_memory_that_they_take() {
        let mut queue = Queue::default();
        let item = |key: usize| {
            let bytes = if key < CHUNK / 3 { SMALL } else { key };
            let value = vec![b'v'; bytes];
            let mut item = Item::new(key.to_string().as_bytes(), 7, Expiry::NEVER, &[&value]);
            item.cas = key as u64;
            item
        };
        let numbers: Vec<_> = (0..CHUNK)
            .map(|key| queue.push(Entry::new(item(key), 0, 0)))
            .collect();
        let packed = |view: View<'_>| matches!(view.entry.kept(), Kept::Packed { .. });
        let small = CHUNK - CHUNK / 3;
        assert_eq!(queue.iter().filter(|view| packed(*view)).count(), small);
        for (&number, key) in numbers.iter().zip(0..) {
            let (found, expected) = (queue.get(number).expect("it is there").item(0), item(key));
            assert_eq!((found.key(), found.flags()), (expected.key(), 7));
            assert_eq!(found.data_block(), expected.data_block());
            assert_eq!(found.cas, expected.cas);
            let taken = queue.take(number).expect("it is there");
            assert!(matches!(taken.kept(), Kept::Own(text) if text.len() > expected.value().len()));
        }
        assert_eq!(queue.size(), 0);
    }

    #[test]
    fn an_item_takes_the_place_of_one_of_the_same_length_unless_somebody_reads_that() {
        let mut queue = Queue::default();
        let entry = |value: &[u8]| Entry::new(Item::new(b"k", 0, Expiry::NEVER, &[value]), 0, 0);
        let numbers: Vec<_> = (0..CHUNK).map(|_| queue.push(entry(b"old"))).collect();
        let number = numbers[7];
        let read = |queue: &Queue| queue.get(number).map(|view| view.item(0));
        assert!(queue.overwrite(number, entry(b"longer")).is_some());
        let reader = read(&queue);
        assert!(queue.overwrite(number, entry(b"new")).is_some());
        drop(reader);
        assert!(queue.overwrite(number, entry(b"new")).is_none());
        let value = |number| queue.get(number).map(|view| view.item(0).value().to_vec());
        assert_eq!(value(number), Some(b"new".to_vec()));
        assert_eq!(value(numbers[8]), Some(b"old".to_vec()));
    }
}
