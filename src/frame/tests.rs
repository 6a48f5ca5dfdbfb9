//! Tests of output queues: short writes, memory counts, dropping and shrinking.

use super::rings::RING_MAX;
use super::*;

fn gather(pool: &FramePool, queue: &OutQueue) -> Vec<u8> {
    let mut slices = [IoSlice::new(&[]); 64];
    let filled = pool.slices(queue, &mut slices);
    slices[..filled].iter().flat_map(|s| s.to_vec()).collect()
}

/// Waiting bytes, and how many of them are backlog.
fn counts(pool: &FramePool, queue: &OutQueue) -> (usize, usize) {
    let Waiting { bytes, backlog, .. } = pool.waiting(queue);
    assert_eq!(bytes, pool.bytes_of(queue));
    (bytes, backlog)
}

/// Counted memory of the waiting publications.
fn weight(pool: &FramePool) -> usize {
    pool.ledger.weight(Kind::Published)
}

#[test]
fn a_queue_of_one_frame_needs_no_list() {
    let (mut pool, mut queue) = (FramePool::new(100), OutQueue::default());
    for kind in [Kind::Asked, Kind::Published] {
        pool.push(&mut queue, Frame::from(&b"one"[..]), kind);
        assert!(pool.only(&queue).is_some_and(|frame| **frame == *b"one"));
        assert_eq!((pool.lists.len(), pool.waiting(&queue).is_begun), (0, false));
        pool.sent(&mut queue, 2);
        assert!(pool.only(&queue).is_none() && pool.waiting(&queue).is_begun);
        assert_eq!((counts(&pool, &queue), &*gather(&pool, &queue)), ((1, 0), &b"e"[..]));
        pool.push(&mut queue, Frame::from(&b"two"[..]), kind);
        pool.sent(&mut queue, 1);
        assert!(pool.only(&queue).is_none() && pool.waiting(&queue).frames == 1);
        pool.sent(&mut queue, 3);
        assert!(queue.is_empty() && pool.is_empty() && weight(&pool) == 0);
    }
    assert_eq!(queue.taken(), 12);
}

#[test]
fn a_short_write_continues_where_it_stopped() {
    let frames: [&[u8]; 4] = [b"abc", b"d", b"", b"efghi"];
    for step in 1..=9 {
        let (mut pool, mut queue) = (FramePool::new(100), OutQueue::default());
        frames.iter().for_each(|f| pool.push(&mut queue, Frame::from(*f), Kind::Published));
        let mut wire = Vec::new();
        while !queue.is_empty() {
            let rest = gather(&pool, &queue);
            assert_eq!((rest.len(), rest.len()), (pool.bytes_of(&queue), pool.bytes()));
            let take = step.min(rest.len());
            wire.extend_from_slice(&rest[..take]);
            pool.sent(&mut queue, take);
        }
        assert_eq!(wire, b"abcdefghi");
        assert!(pool.is_empty() && pool.bytes() == 0 && weight(&pool) == 0);
    }
}

#[test]
fn the_backlog_is_the_publications_behind_the_head() {
    let (mut pool, mut queue) = (FramePool::new(100), OutQueue::default());
    let push = |pool: &mut FramePool, queue: &mut _, text: &[u8], kind| {
        pool.push(queue, Frame::from(text), kind);
    };
    push(&mut pool, &mut queue, b"0123456789", Kind::Published);
    assert_eq!(counts(&pool, &queue), (10, 0), "the head does not count, however large");
    push(&mut pool, &mut queue, b"abc", Kind::Published);
    push(&mut pool, &mut queue, b"a state", Kind::Asked);
    push(&mut pool, &mut queue, b"de", Kind::Published);
    pool.sent(&mut queue, 4);
    assert_eq!(counts(&pool, &queue), (18, 5), "answers do not count");
    let waiting = pool.waiting(&queue);
    assert_eq!((waiting.weight(), waiting.published), (18 + 4 * FRAME_COST_BYTES, 15));
    pool.sent(&mut queue, 7);
    assert_eq!(counts(&pool, &queue), (11, 2), "nor does the frame being sent");
    pool.clear(&mut queue);
    assert!(queue.is_empty() && pool.is_empty() && pool.bytes() == 0);
    assert_eq!(weight(&pool), 0);
    // Of a large publication only the first `counted_max` bytes count.
    pool.push(&mut queue, Frame::from(&[0; 5][..]), Kind::Published);
    pool.push(&mut queue, Frame::from(&[0; 5000][..]), Kind::Published);
    pool.push(&mut queue, Frame::from(&[0; 50][..]), Kind::Published);
    assert_eq!(counts(&pool, &queue), (5055, 150));
    pool.set_counted_max(60);
    assert_eq!(counts(&pool, &queue), (5055, 110));
    pool.sent(&mut queue, 5);
    assert_eq!(counts(&pool, &queue), (5050, 50));
    pool.clear(&mut queue);
}

#[test]
fn a_publication_in_many_queues_counts_once() {
    let mut pool = FramePool::new(100);
    let frame = Frame::from(&[7; 1000][..]);
    let mut queues: Vec<OutQueue> = (0..3).map(|_| OutQueue::default()).collect();
    for queue in &mut queues {
        pool.push(queue, frame.clone(), Kind::Published);
        pool.push(queue, Frame::from(&b"a state"[..]), Kind::Asked);
    }
    pool.ledger.add(&frame, Kind::Published);
    let once = 1000 + FRAME_COST_BYTES;
    assert_eq!(weight(&pool), once + 4 * PLACE_COST_BYTES);
    pool.ledger.remove(&frame, Kind::Published);
    queues.iter_mut().for_each(|queue| pool.sent(queue, 999));
    assert_eq!(weight(&pool), once + 3 * PLACE_COST_BYTES);
    pool.sent(&mut queues[0], 1);
    pool.clear(&mut queues[1]);
    assert_eq!(weight(&pool), once + PLACE_COST_BYTES);
    pool.sent(&mut queues[2], 8);
    assert_eq!((weight(&pool), pool.len()), (0, 1));
    pool.clear(&mut queues[0]);
}

#[test]
fn publications_are_dropped_except_one_sent_in_part() {
    for sent in 0..=4 {
        let (mut pool, mut queue) = (FramePool::new(100), OutQueue::default());
        for (text, kind) in [
            (&b"one"[..], Kind::Published),
            (b"[two]", Kind::Asked),
            (b"three", Kind::Published),
            (b"four", Kind::Published),
            (b"[five]", Kind::Asked),
            (b"six", Kind::Published),
        ] {
            pool.push(&mut queue, Frame::from(text), kind);
        }
        pool.sent(&mut queue, sent);
        let mut dropped = Vec::new();
        pool.drop_waiting(&mut queue, false, |number| dropped.push(number));
        let (rest, numbers) = match sent {
            0 => ("[two][five]", vec![0, 2, 3, 5]),
            1 | 2 => (&"one[two][five]"[sent..], vec![2, 3, 5]),
            _ => (&"[two][five]"[sent - 3..], vec![1, 2, 4]),
        };
        assert_eq!((&*gather(&pool, &queue), dropped), (rest.as_bytes(), numbers));
        let Waiting { published, backlog, .. } = pool.waiting(&queue);
        assert_eq!((published, backlog, weight(&pool)), (0, 0, 0));
        pool.push(&mut queue, Frame::from(&b"bye"[..]), Kind::Asked);
        assert_eq!(gather(&pool, &queue), [rest.as_bytes(), b"bye"].concat());
        assert_eq!((pool.bytes_of(&queue), pool.bytes()), (rest.len() + 3, rest.len() + 3));
        pool.sent(&mut queue, rest.len() + 3);
        assert!(queue.is_empty() && pool.is_empty() && pool.waiting(&queue).weight() == 0);
    }
}

#[test]
fn a_shared_answer_counts_once_and_is_dropped_when_a_peer_is_cut() {
    let mut pool = FramePool::new(100);
    let shared = Frame::from(&[7; 1000][..]);
    let mut queues: Vec<OutQueue> = (0..4).map(|_| OutQueue::default()).collect();
    for queue in &mut queues {
        pool.push(queue, shared.clone(), Kind::Asked);
        pool.push(queue, Frame::from(&[1; 36][..]), Kind::Published);
        pool.push(queue, Frame::from(&[2; 36][..]), Kind::Asked);
    }
    let answer_weight = |pool: &FramePool| pool.ledger.weight(Kind::Asked);
    let own = 36 + FRAME_COST_BYTES;
    let all = 1000 + FRAME_COST_BYTES + 4 * own + 8 * PLACE_COST_BYTES;
    assert_eq!((answer_weight(&pool), weight(&pool)), (all, 4 * (own + PLACE_COST_BYTES)));
    let share = (1000 + FRAME_COST_BYTES) / 4 + own + 2 * PLACE_COST_BYTES;
    assert_eq!(pool.owed(&queues[0]), share);
    // The frame of one queue is sent in part, that of the other is not.
    pool.sent(&mut queues[0], 1);
    for (queue, left) in queues.iter_mut().zip([999, 0]) {
        pool.drop_waiting(queue, true, |_| ());
        assert_eq!(pool.bytes_of(queue), left);
    }
    let both = 2 * own + 5 * PLACE_COST_BYTES + 1000 + FRAME_COST_BYTES;
    assert_eq!((answer_weight(&pool), weight(&pool)), (both, 2 * (own + PLACE_COST_BYTES)));
    queues.iter_mut().for_each(|queue| pool.clear(queue));
    assert_eq!((answer_weight(&pool), weight(&pool), pool.len()), (0, 0, 0));
}

#[test]
fn a_queued_frame_stays_small() {
    const { assert!(Slots::<QueuedFrame>::SLOT_BYTES <= 16 && Slots::<List>::SLOT_BYTES <= 64) };
    assert_eq!(size_of::<OutQueue>(), 8);
}

#[test]
fn the_pool_shrinks_after_few_queues_were_used_for_a_while() {
    let mut pool = FramePool::new(100);
    let mut queues: Vec<OutQueue> = (0..5000).map(|_| OutQueue::default()).collect();
    let frame = Frame::from(&b"to all"[..]);
    let mut now = Millis(10_000);
    for _ in 0..3 {
        for _ in 0..2 {
            for queue in &mut queues {
                pool.push(queue, frame.clone(), Kind::Published);
            }
        }
        pool.shrink(now);
        assert_eq!(pool.shrink_at(), Some(now.plus(SHRINK_MS)));
        queues.iter_mut().for_each(|queue| pool.sent(queue, 12));
        now = now.plus(SHRINK_MS - 1);
        pool.shrink(now);
        let kept = [pool.single.slots(), pool.lists.slots(), pool.rings.spare()];
        assert_eq!((pool.is_empty(), kept), (true, [5000; 3]), "kept for the next burst");
    }
    // Once begun, shrinking continues in each turn.
    let mut turns = 0;
    while pool.shrink_at().is_some_and(|at| at <= now.plus(1)) {
        pool.shrink(now.plus(1));
        turns += 1;
    }
    assert!(turns > 8, "{turns}");
    assert!(pool.single.capacity() <= 4096 && pool.lists.capacity() <= 2048);
    assert_eq!(pool.rings.spare(), 0);
    assert_eq!(pool.shrink_at(), None);
}

#[cfg(target_pointer_width = "64")]
#[test]
fn a_backlog_may_exceed_32_bits() {
    let most = 1 << 28;
    let (mut pool, mut queue) = (FramePool::new(most), OutQueue::default());
    // One frame of zeros, which takes no physical memory as nothing is written there.
    let frame = Frame::from(vec![0; most]);
    (0..18).for_each(|_| pool.push(&mut queue, frame.clone(), Kind::Published));
    assert_eq!(pool.waiting(&queue).backlog, 17 * most);
    pool.clear(&mut queue);
}

#[test]
fn slow_peers_do_not_retain_the_memory_of_other_peers() {
    let mut pool = FramePool::new(100);
    let frame = Frame::from(&b"to all"[..]);
    let mut queues: Vec<OutQueue> = (0..20_000).map(|_| OutQueue::default()).collect();
    for queue in &mut queues {
        (0..3).for_each(|_| pool.push(queue, frame.clone(), Kind::Published));
    }
    // The first peers, whose lists are in the first slots, take nothing.
    queues.iter_mut().skip(300).for_each(|queue| pool.sent(queue, 18));
    assert_eq!(pool.rings.spare(), 19_700);
    (0..1000).for_each(|turn| pool.shrink(Millis(10_000 + turn * SHRINK_MS / 4)));
    assert!(pool.rings.spare() <= 3 * 300 && pool.lists.slots() <= 4 * 300);
    queues.iter_mut().for_each(|queue| pool.clear(queue));
}

/// Frames for which the rings of a queue have room.
fn capacity(pool: &FramePool, queue: &OutQueue) -> usize {
    let list = queue.list().map(|list| &pool.lists[list]);
    list.map_or(0, |list| pool.rings.capacity(&list.queued, list.behind))
}

/// A queue that has become shorter holds no more memory than its frames need.
#[test]
fn a_long_queue_returns_memory_while_it_is_sent() {
    let (mut pool, mut queue) = (FramePool::new(100), OutQueue::default());
    let frame = Frame::from(&b"."[..]);
    (0..10_000).for_each(|_| pool.push(&mut queue, frame.clone(), Kind::Published));
    assert!(capacity(&pool, &queue) >= 10_000);
    while pool.bytes() > 1 {
        pool.sent(&mut queue, 1);
        assert_eq!(pool.waiting(&queue).frames, pool.len());
        assert!(capacity(&pool, &queue) <= pool.len() + 3 * RING_MAX);
    }
    pool.push(&mut queue, frame.clone(), Kind::Asked);
    (0..10_000).for_each(|_| pool.push(&mut queue, frame.clone(), Kind::Published));
    pool.drop_waiting(&mut queue, false, |_| ());
    assert!(pool.len() == 1 && capacity(&pool, &queue) <= RING_MAX);
    pool.clear(&mut queue);
    (0..8).for_each(|turn| pool.shrink(Millis(10_000 + turn * SHRINK_MS)));
    assert!(pool.rings.spare() == 0 && pool.shrink_at().is_none());
}

/// A thousand peers that take nothing from one channel have queues of the same length: if these
/// were copied as they grow, it would be in the same turn.
#[test]
fn a_long_queue_grows_without_moving_what_it_holds() {
    let (mut pool, mut queue) = (FramePool::new(100), OutQueue::default());
    let places = |pool: &FramePool, queue: &OutQueue| -> Vec<*const Frame> {
        pool.frames(queue).map(std::ptr::from_ref).collect()
    };
    let mut before = Vec::new();
    for number in 0..2000 {
        pool.push(&mut queue, Frame::from(format!("{number}").as_bytes()), Kind::Published);
        let now = places(&pool, &queue);
        assert_eq!((now.len(), pool.waiting(&queue).frames), (number + 1, number + 1));
        let moved = before.iter().zip(&now).filter(|(before, now)| before != now).count();
        assert!(moved < 2 * RING_MAX, "{moved} of {number} frames were moved");
        before = now;
    }
    pool.clear(&mut queue);
}

/// Nor do these queues get more room in the same turn.
#[test]
fn queues_of_the_same_length_do_not_grow_together() {
    let mut pool = FramePool::new(100);
    let mut queues: Vec<OutQueue> = (0..320).map(|_| OutQueue::default()).collect();
    let frame = Frame::from(&b"to all"[..]);
    for number in 0..300 {
        let before: Vec<usize> = queues.iter().map(|queue| capacity(&pool, queue)).collect();
        for queue in &mut queues {
            pool.push(queue, frame.clone(), Kind::Published);
        }
        let now = queues.iter().map(|queue| capacity(&pool, queue));
        let grown = now.zip(before).filter(|(now, before)| now > before).count();
        assert!(number < 2 * RING_MAX || grown == 320 / RING_MAX, "{grown} of them at {number}");
    }
    queues.iter_mut().for_each(|queue| pool.clear(queue));
}

/// The frames of a queue with several rings, as they are sent, and as some of them are dropped.
#[test]
fn frames_keep_their_order_in_a_long_queue() {
    for step in [1, 7, 64, 1000] {
        let (mut pool, mut queue) = (FramePool::new(100), OutQueue::default());
        let mut expected = Vec::new();
        let push = |pool: &mut FramePool, queue: &mut OutQueue, number: u32| {
            let kind = if number.is_multiple_of(3) { Kind::Asked } else { Kind::Published };
            pool.push(queue, Frame::from(format!("{number},").as_bytes()), kind);
        };
        for number in 0..300 {
            push(&mut pool, &mut queue, number);
            if number.is_multiple_of(3) {
                expected.extend_from_slice(format!("{number},").as_bytes());
            }
        }
        // Nothing of the first frame was sent, so all publications go.
        let mut dropped = 0;
        pool.drop_waiting(&mut queue, false, |_| dropped += 1);
        assert_eq!((dropped, pool.waiting(&queue).frames), (200, 100));
        for number in 300..500 {
            push(&mut pool, &mut queue, number);
            expected.extend_from_slice(format!("{number},").as_bytes());
        }
        let all: Vec<u8> = pool.frames(&queue).flat_map(|frame| frame.to_vec()).collect();
        assert_eq!(all, expected);
        let mut wire = Vec::new();
        while !queue.is_empty() {
            let rest = gather(&pool, &queue);
            let take = step.min(rest.len());
            wire.extend_from_slice(&rest[..take]);
            pool.sent(&mut queue, take);
        }
        assert_eq!((wire, pool.bytes(), pool.len(), weight(&pool)), (expected, 0, 0, 0));
    }
}

#[test]
fn a_small_frame_is_used_again_and_counts_as_the_memory_it_takes() {
    let text = |bytes: usize| Frame::with(bytes, |out| out.extend((0..bytes).map(|at| at as u8)));
    for (bytes, capacity) in [(1, 64), (64, 64), (65, 128), (256, 256), (257, 257), (0, 0)] {
        let frame = text(bytes);
        assert_eq!((frame.len(), frame.memory()), (bytes, capacity + FRAME_COST_BYTES));
        let (shared, place) = (frame.clone(), frame.as_ptr());
        drop(frame);
        // Not while somebody has it.
        let other = text(bytes);
        assert_eq!((&other, bytes == 0 || other.as_ptr() != place), (&shared, true));
        drop(shared);
        let again = text(bytes);
        assert!(again == other && (bytes > 256 || again.as_ptr() == place));
    }
    let many: Vec<Frame> = (0..1000).map(|_| text(100)).collect();
    let places = many.iter().map(|frame| frame.as_ptr()).collect::<Vec<_>>();
    drop(many);
    let again: Vec<Frame> = (0..1000).map(|_| text(100)).collect();
    assert!(again.iter().filter(|frame| places[..64].contains(&frame.as_ptr())).count() >= 64);
}

#[test]
fn a_frame_that_waited_in_a_pool_that_is_gone_counts_when_it_is_used_again() {
    for _ in 0..2 {
        let (mut pool, mut queue) = (FramePool::new(100), OutQueue::default());
        pool.push(&mut queue, Frame::with(9, |out| out.extend(b"something")), Kind::Published);
        assert_eq!(weight(&pool), 64 + FRAME_COST_BYTES + PLACE_COST_BYTES);
    }
}
