//! A list that is mostly short, and then needs no allocation: the channels of a peer (a shared one
//! and its own), the connections of a user.

use std::ops::{Deref, DerefMut};

/// A type with a value that means "none", so that an empty place needs no flag.
pub(super) trait Blank: Copy {
    /// The value that means "none".
    const BLANK: Self;

    /// Whether this is that value.
    fn is_blank(&self) -> bool;
}

/// A list of values: up to `N` inline, more in an allocation.
#[derive(Debug)]
pub(super) struct SmallList<T, const N: usize> {
    /// The elements, from the front, if there are at most `N`.
    inline: [T; N],
    /// All elements, if there are more than `N`.
    #[allow(clippy::box_collection)] // one word, because it is rarely there
    spilled: Option<Box<Vec<T>>>,
}

impl<T: Blank, const N: usize> Default for SmallList<T, N> {
    fn default() -> Self {
        SmallList { inline: [T::BLANK; N], spilled: None }
    }
}

impl<T: Blank, const N: usize> SmallList<T, N> {
    fn count(&self) -> usize {
        self.inline.iter().position(T::is_blank).unwrap_or(N)
    }

    /// Appends an element.
    pub fn push(&mut self, value: T) {
        debug_assert!(!value.is_blank());
        if let Some(spilled) = &mut self.spilled {
            return spilled.push(value);
        }
        let count = self.count();
        if let Some(place) = self.inline.get_mut(count) {
            *place = value;
            return;
        }
        let mut all = Vec::with_capacity(2 * N);
        all.extend_from_slice(&self.inline);
        all.push(value);
        self.spilled = Some(Box::new(all));
    }

    /// Removes an element; the last one takes its place. Gives memory back as the list gets short.
    ///
    /// # Panics
    /// If `index` is out of bounds.
    pub fn swap_remove(&mut self, index: usize) -> T {
        let Some(spilled) = &mut self.spilled else {
            let last = self.count() - 1;
            assert!(index <= last, "there is none at {index}");
            self.inline.swap(index, last);
            return std::mem::replace(&mut self.inline[last], T::BLANK);
        };
        let value = spilled.swap_remove(index);
        if spilled.len() <= N {
            self.inline[..spilled.len()].copy_from_slice(spilled);
            self.inline[spilled.len()..].fill(T::BLANK);
            self.spilled = None;
        } else if spilled.len() * 4 <= spilled.capacity() {
            spilled.shrink_to(spilled.len() * 2);
        }
        value
    }
}

impl<T: Blank, const N: usize> Deref for SmallList<T, N> {
    type Target = [T];
    #[inline]
    fn deref(&self) -> &[T] {
        match &self.spilled {
            Some(spilled) => spilled,
            None => &self.inline[..self.count()],
        }
    }
}

impl<T: Blank, const N: usize> DerefMut for SmallList<T, N> {
    fn deref_mut(&mut self) -> &mut [T] {
        let count = self.count();
        match &mut self.spilled {
            Some(spilled) => spilled,
            None => &mut self.inline[..count],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Blank for u32 {
        const BLANK: u32 = u32::MAX;
        fn is_blank(&self) -> bool {
            *self == u32::MAX
        }
    }

    fn check<const N: usize>() {
        let (mut inline, mut list, mut random) =
            (SmallList::<u32, N>::default(), Vec::new(), 7_u32);
        for value in 0..10_000_u32 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let is_growing = (value / 50) % 2 == 0;
            if list.is_empty() || is_growing == ((random >> 16) % 4 > 0) {
                inline.push(value);
                list.push(value);
            } else {
                let index = (random >> 8) as usize % list.len();
                assert_eq!(inline.swap_remove(index), list.swap_remove(index));
            }
            assert_eq!(*inline, *list);
            assert_eq!(*inline.deref_mut(), *list);
            assert_eq!(list.len() <= N, inline.spilled.is_none());
        }
    }

    #[test]
    fn a_small_list_behaves_like_a_vec() {
        check::<1>();
        check::<2>();
    }
}
