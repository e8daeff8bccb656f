//! `mg`, `ms`, `md`, `ma`, `me`: they do what the classic commands do, and more, and return what their flags ask for.
//!
//! `ms` and `ma` change the store through the same functions as `set` and `incr`. What is new here: with `mg` and `md`,
//! one of many clients brings a new value, while the others wait or use the old one (`doc/protocol.txt`, "Meta Get").
//! This begins when an item is *vivified* (created empty by `N`) or *stale* or about to expire. The first client that
//! reads it *wins* (its answer has `W`). The answers to the others have `Z`: another client has won.
//!
//! Lessons: [21](crate::conversations::lesson_21_meta_first_steps), [23](crate::conversations::lesson_23_meta_delete),
//! [25](crate::conversations::lesson_25_one_brings_the_value),
//! [26](crate::conversations::lesson_26_stale_while_revalidate).

use super::{arithmetic, log_fetch, storage};
use crate::datastore::{Bump, Datastore, PendingItem};
use crate::item::{Expiry, Item, UnixTime};
use crate::protocol::{
    Arithmetic, Key, MetaDelete, MetaGet, ProtocolError, ReturnFlag, ReturnFlags, Storage,
};
use crate::serialization::{Code, Flag, Meta, Response, Value};
use crate::stats::{Counter, Counts};
use crate::watch::Events;

/// `mg`
pub fn get<'a>(
    request: &MetaGet<'a>,
    store: &Datastore,
    counts: &Counts,
    events: &Events<'_>,
    value_buffer: &'a mut Vec<u8>,
) -> Result<Response<'a>, ProtocolError> {
    let key = &*request.key.bytes;
    let bump = if request.no_bump { Bump::No } else { Bump::Yes };
    let mut read_before = None;
    // The error comes after the changes, as in memcached.
    let opaque_too_long = request.return_flags.opaque_too_long;
    if request.touch.is_none() && request.vivify.is_none() && request.recache.is_none() {
        match store.get(key, bump, value_buffer) {
            None => {
                events.fetched(key, None, || store.has_expired(key));
                return miss(request, counts);
            }
            Some(_) if opaque_too_long => return Err(ProtocolError::OpaqueTooLong),
            // This client may win the item, and the mark for that needs the write lock.
            Some(item) if item.marks.stale && !item.marks.won => {
                read_before = Some((item.fetched, item.last_access));
            }
            Some(item) => {
                events.fetched(key, Some(&item), || false);
                let found = Found::new(request, item, Created::No, || store.clock().now());
                return Ok(found.response(request, counts));
            }
        }
    }
    // Memory for an item that may have to be created is reserved while no lock is held.
    let pending = match request.vivify {
        Some(created) => store.reserve_for(key, created.final_exptime, b"").ok(),
        None => None,
    };
    let mut guard = store.lock_key(key);
    log_fetch(&guard, key, events);
    let (mut item, created) = match (guard.item(), pending) {
        (Some(item), _) => (item.into_owned(), Created::No),
        (None, None) => return miss(request, counts),
        (None, Some(PendingItem { mut item, .. })) => {
            item.last_access = guard.now();
            item.cas = guard.put(item.borrowed(), request.cas)?;
            counts.add(Counter::TotalItems);
            (item, Created::Yes)
        }
    };
    if let Some(before) = read_before {
        (item.fetched, item.last_access) = before;
    }
    let found = Found::new(request, item, created, || guard.now());
    if bump == Bump::Yes && !opaque_too_long {
        guard.mark_read();
    }
    if found.wins && !opaque_too_long {
        guard.mark_won();
    }
    if found.expiry != found.item.expiry {
        guard.touch(found.expiry)?;
    }
    drop(guard);
    if opaque_too_long {
        return Err(ProtocolError::OpaqueTooLong);
    }
    Ok(found.response(request, counts))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Created {
    Yes,
    No,
}

/// An item that `mg` has found or created, and the result of its flags, which are processed in their order.
struct Found<'a> {
    item: Item<'a>,
    /// Its expiry after this command.
    expiry: Expiry,
    /// Whether this client wins: it should bring a new value.
    wins: bool,
    flags: Vec<Flag<'a>>,
}

impl<'a> Found<'a> {
    fn new(
        request: &MetaGet<'a>,
        item: Item<'a>,
        created: Created,
        // Called only for those flags that need it: reading the clock takes a tenth of the time of an `mg`.
        now: impl Fn() -> UnixTime,
    ) -> Self {
        let marks = item.marks;
        let is_new = created == Created::Yes;
        // A new item gets its expiry when its flag `N` is processed. A `t` before that flag shows no expiry.
        let mut expiry = if is_new { Expiry::NEVER } else { item.expiry };
        let mut wins = is_new;
        let mut flags = Vec::new();
        for flag in request.return_flags.flags() {
            match flag {
                ReturnFlag::Touch => {
                    expiry = request
                        .touch
                        .map_or(expiry, |exptime| exptime.expiry(now()))
                }
                ReturnFlag::Vivify if is_new => {
                    expiry = request
                        .vivify
                        .map_or(expiry, |created| created.exptime.expiry(now()));
                }
                ReturnFlag::Recache if !is_new && !marks.won => {
                    let soon = request
                        .recache
                        .and_then(|exptime| exptime.expiry(now()).time());
                    wins |= expiry
                        .time()
                        .zip(soon)
                        .is_some_and(|(end, soon)| end < soon);
                }
                ReturnFlag::Vivify | ReturnFlag::Recache => {}
                ReturnFlag::Opaque(opaque) => flags.push(Flag::Opaque(opaque)),
                ReturnFlag::Key => {
                    flags.push(Flag::Key(item.key().to_vec().into(), marks.binary_key))
                }
                ReturnFlag::Cas => flags.push(Flag::Cas(item.cas)),
                ReturnFlag::ClientFlags => flags.push(Flag::ClientFlags(item.flags)),
                ReturnFlag::Hit => flags.push(Flag::Hit(item.fetched)),
                ReturnFlag::LastAccess => {
                    flags.push(Flag::LastAccess(now().saturating_sub(item.last_access)));
                }
                ReturnFlag::Size => flags.push(Flag::Size(item.value_length())),
                ReturnFlag::Ttl => flags.push(Flag::Ttl(ttl(expiry, now()))),
            }
        }
        if marks.won {
            flags.push(Flag::Lost);
        }
        if marks.stale {
            flags.push(Flag::Stale);
            wins |= !marks.won;
        }
        if wins {
            flags.push(Flag::Won);
        }
        Found {
            item,
            expiry,
            wins,
            flags,
        }
    }

    fn response(self, request: &MetaGet<'a>, counts: &Counts) -> Response<'a> {
        let (commands, hits) = match request.touch {
            Some(_) => (Counter::CmdTouch, Counter::TouchHits),
            None => (Counter::CmdGet, Counter::GetHits),
        };
        counts.add(commands);
        counts.add(hits);
        let has_this_version = request.compare == Some(self.item.cas);
        let code = match request.return_flags.value && !has_this_version {
            true => Code::Value(Value::Item(self.item)),
            false => Code::Done,
        };
        // `q` hides a miss, but not a hit.
        Response::Meta(Meta {
            code,
            flags: self.flags,
            hidden: false,
        })
    }
}

fn miss<'a>(request: &MetaGet<'a>, counts: &Counts) -> Result<Response<'a>, ProtocolError> {
    counts.add(Counter::CmdGet);
    counts.add(Counter::GetMisses);
    if request.return_flags.opaque_too_long {
        return Err(ProtocolError::OpaqueTooLong);
    }
    let flags = echoed(&request.key, &request.return_flags);
    Ok(Response::Meta(Meta {
        code: Code::Miss,
        flags,
        hidden: request.return_flags.quiet,
    }))
}

/// `ms`
pub fn set<'a>(
    request: &Storage<'a>,
    return_flags: &ReturnFlags<'a>,
    pending: PendingItem,
    store: &Datastore,
    counts: &Counts,
    events: &Events<'_>,
) -> Result<Response<'a>, ProtocolError> {
    let (code, cas, bytes) = match storage::store(request, pending, store, counts, events)? {
        storage::Outcome::Stored { cas, bytes } => (Code::Done, cas, bytes),
        storage::Outcome::NotStored(condition) => (Code::NotStored(condition), 0, request.bytes),
        storage::Outcome::Exists(cas) => (Code::Exists(cas), 0, request.bytes),
        storage::Outcome::NotFound => (Code::NotFound, 0, request.bytes),
    };
    let flags = return_flags.flags().filter_map(|flag| match flag {
        ReturnFlag::Cas => Some(Flag::Cas(cas)),
        ReturnFlag::Size => Some(Flag::Size(bytes)),
        ReturnFlag::Opaque(_) | ReturnFlag::Key => echo(flag, &request.key),
        ReturnFlag::ClientFlags
        | ReturnFlag::Hit
        | ReturnFlag::LastAccess
        | ReturnFlag::Ttl
        | ReturnFlag::Touch
        | ReturnFlag::Vivify
        | ReturnFlag::Recache => None,
    });
    let flags = flags.collect();
    let hidden = return_flags.quiet && matches!(code, Code::Done);
    Ok(Response::Meta(Meta {
        code,
        flags,
        hidden,
    }))
}

/// `md`
pub fn delete<'a>(
    request: &MetaDelete<'a>,
    store: &Datastore,
    counts: &Counts,
    events: &Events<'_>,
) -> Result<Response<'a>, ProtocolError> {
    let key = &*request.key.bytes;
    let mut guard = store.lock_key(key);
    log_fetch(&guard, key, events);
    let code = match guard.item() {
        None => {
            counts.add(Counter::DeleteMisses);
            Code::NotFound
        }
        Some(item) if request.compare.is_some_and(|unique| unique != item.cas) => {
            counts.add(Counter::DeleteMisses);
            Code::Exists(item.cas)
        }
        Some(item) => {
            let new_expiry = request.touch.map(|exptime| exptime.expiry(guard.now()));
            let bytes = match request.remove_value {
                true => 0,
                false => item.value_length(),
            };
            match (request.remove_value, request.invalidate) {
                (true, invalidate) => {
                    let expiry = new_expiry.unwrap_or(Expiry::NEVER);
                    let mut empty = Item::new(item.key(), request.flags, expiry, &[]);
                    empty.marks.stale = invalidate;
                    // A stale item gets a new cas unique. An item whose value was only removed keeps its own.
                    let kept = if invalidate { None } else { Some(item.cas) };
                    guard.put(empty, request.cas.or(kept))?;
                    counts.add(Counter::TotalItems);
                    events.stored(key, "stored", "set", || guard.ttl(), 0);
                }
                (false, true) => {
                    guard.invalidate(new_expiry.unwrap_or(item.expiry), request.cas)?
                }
                (false, false) => guard.remove()?,
            }
            if !request.invalidate {
                counts.add(Counter::DeleteHits);
                events.deleted(key, "md", bytes);
            }
            Code::Done
        }
    };
    let hidden = request.return_flags.quiet && matches!(code, Code::Done);
    Ok(Response::Meta(Meta {
        code,
        flags: echoed(&request.key, &request.return_flags),
        hidden,
    }))
}

/// `ma`
pub fn calculate<'a>(
    request: &Arithmetic<'a>,
    return_flags: &ReturnFlags<'a>,
    store: &Datastore,
    counts: &Counts,
    events: &Events<'_>,
) -> Result<Response<'a>, ProtocolError> {
    let outcome = arithmetic::apply(request, store, counts, events)?;
    // The error comes after the change, as in memcached.
    if return_flags.opaque_too_long {
        return Err(ProtocolError::OpaqueTooLong);
    }
    let (number, cas, mut expiry, created, now) = match outcome {
        arithmetic::Outcome::Calculated {
            number,
            cas,
            expiry,
            created,
            now,
        } => (number, cas, expiry, created, now),
        arithmetic::Outcome::NotFound => {
            return Ok(not_calculated(Code::NotFound, request, return_flags));
        }
        arithmetic::Outcome::Exists(cas) => {
            return Ok(not_calculated(Code::Exists(cas), request, return_flags));
        }
    };
    // The item has its new expiry already, but `t` shows the expiry that results from the flags before it.
    let mut flags = Vec::new();
    for flag in return_flags.flags() {
        match flag {
            ReturnFlag::Cas => flags.push(Flag::Cas(cas)),
            ReturnFlag::Ttl => flags.push(Flag::Ttl(ttl(expiry, now))),
            ReturnFlag::Touch => {
                expiry = request.touch.map_or(expiry, |exptime| exptime.expiry(now));
            }
            ReturnFlag::Vivify if created => {
                expiry = request
                    .vivify
                    .map_or(expiry, |(created, _)| created.exptime.expiry(now));
            }
            ReturnFlag::Opaque(_) | ReturnFlag::Key => flags.extend(echo(flag, &request.key)),
            ReturnFlag::ClientFlags
            | ReturnFlag::Hit
            | ReturnFlag::LastAccess
            | ReturnFlag::Size
            | ReturnFlag::Vivify
            | ReturnFlag::Recache => {}
        }
    }
    let code = if return_flags.value {
        Code::Value(Value::Number(number))
    } else {
        Code::Done
    };
    Ok(Response::Meta(Meta {
        code,
        flags,
        hidden: return_flags.quiet,
    }))
}

fn not_calculated<'a>(
    code: Code<'a>,
    request: &Arithmetic<'a>,
    return_flags: &ReturnFlags<'a>,
) -> Response<'a> {
    Response::Meta(Meta {
        code,
        flags: echoed(&request.key, return_flags),
        hidden: false,
    })
}

/// `me`
pub fn debug<'r>(
    key: &[u8],
    store: &Datastore,
    counts: &Counts,
    events: &Events<'_>,
    value_buffer: &'r mut Vec<u8>,
) -> Response<'r> {
    counts.add(Counter::CmdMeta);
    let found = store.get(key, Bump::No, value_buffer);
    events.fetched(key, found.as_ref(), || store.has_expired(key));
    match found {
        Some(item) => Response::Described(item, store.clock().now()),
        None => Response::Meta(Meta {
            code: Code::Miss,
            flags: Vec::new(),
            hidden: false,
        }),
    }
}

/// The flags that every answer repeats: opaque and key.
fn echoed<'a>(key: &Key<'a>, return_flags: &ReturnFlags<'a>) -> Vec<Flag<'a>> {
    return_flags
        .flags()
        .filter_map(|flag| echo(flag, key))
        .collect()
}

fn echo<'a>(flag: ReturnFlag<'a>, key: &Key<'a>) -> Option<Flag<'a>> {
    match flag {
        ReturnFlag::Opaque(opaque) => Some(Flag::Opaque(opaque)),
        ReturnFlag::Key => Some(Flag::Key(key.bytes.clone(), key.binary)),
        ReturnFlag::Cas
        | ReturnFlag::ClientFlags
        | ReturnFlag::Hit
        | ReturnFlag::LastAccess
        | ReturnFlag::Size
        | ReturnFlag::Ttl
        | ReturnFlag::Touch
        | ReturnFlag::Vivify
        | ReturnFlag::Recache => None,
    }
}

/// The TTL in seconds; `None` if the item never expires.
fn ttl(expiry: Expiry, now: UnixTime) -> Option<UnixTime> {
    expiry.time().map(|end| end.saturating_sub(now))
}
