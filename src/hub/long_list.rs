//! A list for the members of a channel. One member needs no allocation. Thousands of them are in
//! pieces, each as long as all before it, so another member moves none of the others: ten thousand
//! clients that subscribe to the same hundred channels would otherwise have a hundred long lists
//! copied in one turn.

use std::ops::{Index, IndexMut};

use super::small_list::Blank;

/// Elements of the first piece, which is copied when it grows; a member takes 16 bytes.
const FIRST: usize = 32;

/// A list of values: one inline, more in an allocation, and more than [`FIRST`] in several.
#[derive(Debug)]
pub(super) struct LongList<T> {
    /// The only element, if there is no more than one.
    inline: T,
    /// All elements, if there are several.
    spilled: Option<Box<Spilled<T>>>,
}

/// Several elements. All pieces but the last are full.
#[derive(Debug)]
struct Spilled<T> {
    /// The first piece, which grows as it is filled.
    first: Vec<T>,
    /// The others, none of them empty: of [`FIRST`] elements, twice as many, and so on. Large
    /// ones take memory only where they are used.
    others: Vec<Vec<T>>,
}

/// The piece of an index, counted from the first, and the index in it.
fn place(index: usize) -> (usize, usize) {
    match (index / FIRST).checked_ilog2() {
        None => (0, index),
        Some(other) => (other as usize + 1, index - (FIRST << other)),
    }
}

impl<T> Spilled<T> {
    fn len(&self) -> usize {
        match &self.others[..] {
            [] => self.first.len(),
            [full @ .., last] => (FIRST << full.len()) + last.len(),
        }
    }

    fn get(&self, index: usize) -> Option<&T> {
        let (piece, index) = place(index);
        match piece.checked_sub(1) {
            None => self.first.get(index),
            Some(other) => self.others.get(other)?.get(index),
        }
    }

    fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        let (piece, index) = place(index);
        match piece.checked_sub(1) {
            None => self.first.get_mut(index),
            Some(other) => self.others.get_mut(other)?.get_mut(index),
        }
    }

    fn push(&mut self, value: T) {
        if self.first.len() < FIRST {
            return self.first.push(value);
        }
        let size = FIRST << self.others.len().saturating_sub(1);
        match self.others.last_mut() {
            Some(last) if last.len() < size => last.push(value),
            _ => {
                let mut piece = Vec::with_capacity(FIRST << self.others.len());
                piece.push(value);
                self.others.push(piece);
            }
        }
    }

    /// Removes the last element, and gives memory back as the list gets short.
    fn pop(&mut self) -> Option<T> {
        let Some(last) = self.others.last_mut() else {
            let value = self.first.pop();
            if self.first.len() * 4 <= self.first.capacity() {
                self.first.shrink_to(self.first.len() * 2);
            }
            return value;
        };
        let value = last.pop();
        if last.is_empty() {
            self.others.pop();
        }
        value
    }
}

impl<T: Blank> Default for LongList<T> {
    fn default() -> Self {
        LongList { inline: T::BLANK, spilled: None }
    }
}

impl<T: Blank> LongList<T> {
    /// Number of elements.
    #[inline]
    pub fn len(&self) -> usize {
        match &self.spilled {
            Some(spilled) => spilled.len(),
            None => usize::from(!self.inline.is_blank()),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends an element.
    pub fn push(&mut self, value: T) {
        debug_assert!(!value.is_blank());
        if let Some(spilled) = &mut self.spilled {
            spilled.push(value);
        } else if self.inline.is_blank() {
            self.inline = value;
        } else {
            let first = vec![self.inline, value];
            self.spilled = Some(Box::new(Spilled { first, others: Vec::new() }));
        }
    }

    /// Removes an element; the last one takes its place.
    ///
    /// # Panics
    /// If `index` is out of bounds.
    pub fn swap_remove(&mut self, index: usize) -> T {
        let removed = self[index];
        let Some(spilled) = &mut self.spilled else {
            self.inline = T::BLANK;
            return removed;
        };
        let last = spilled.pop();
        if let (Some(place), Some(last)) = (spilled.get_mut(index), last) {
            *place = last;
        }
        if let ([only], []) = (&spilled.first[..], &spilled.others[..]) {
            self.inline = *only;
            self.spilled = None;
        }
        removed
    }

    /// The element at an index.
    pub fn get(&self, index: usize) -> Option<&T> {
        match &self.spilled {
            Some(spilled) => spilled.get(index),
            None => Some(&self.inline).filter(|one| index == 0 && !one.is_blank()),
        }
    }

    /// The elements, in order.
    #[inline]
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        let (first, others) = match &self.spilled {
            Some(spilled) => (&spilled.first[..], &spilled.others[..]),
            None => (&std::slice::from_ref(&self.inline)[..self.len()], &[][..]),
        };
        first.iter().chain(others.iter().flatten())
    }
}

impl<T: Blank> Index<usize> for LongList<T> {
    type Output = T;
    fn index(&self, index: usize) -> &T {
        self.get(index).unwrap_or_else(|| panic!("there is none at {index}"))
    }
}

impl<T: Blank> IndexMut<usize> for LongList<T> {
    fn index_mut(&mut self, index: usize) -> &mut T {
        let found = match &mut self.spilled {
            Some(spilled) => spilled.get_mut(index),
            None => Some(&mut self.inline).filter(|one| index == 0 && !one.is_blank()),
        };
        found.unwrap_or_else(|| panic!("there is none at {index}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_behaves_like_a_vec() {
        let (mut long, mut list, mut random) = (LongList::<u32>::default(), Vec::new(), 7_u32);
        for value in 0..40_000_u32 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Up to thousands, and back to nothing.
            let is_growing = (value / 4000) % 2 == 0;
            if list.is_empty() || is_growing == ((random >> 16) % 4 > 0) {
                long.push(value);
                list.push(value);
            } else {
                let index = (random >> 8) as usize % list.len();
                assert_eq!(long.swap_remove(index), list.swap_remove(index));
            }
            assert_eq!((long.len(), long.is_empty()), (list.len(), list.is_empty()));
            assert_eq!(long.spilled.is_none(), list.len() <= 1);
            assert_eq!(long.get(list.len()), None);
            if value % 50 == 0 {
                assert!(long.iter().eq(&list));
                (0..list.len()).for_each(|index| assert_eq!(long[index], list[index]));
            }
            if let Some(last) = list.len().checked_sub(1) {
                (long[last], list[last]) = (value, value);
            }
        }
        assert!(list.len() < FIRST, "it has become short again: {}", list.len());
    }

    #[test]
    fn what_is_in_a_long_list_stays_where_it_is() {
        let mut list = LongList::<u32>::default();
        (0..10_000).for_each(|value| list.push(value));
        let places = |list: &LongList<u32>| list.iter().map(std::ptr::from_ref).collect::<Vec<_>>();
        let before = places(&list);
        (10_000..20_000).for_each(|value| list.push(value));
        assert_eq!(places(&list)[..10_000], before);
        while list.len() > 10_000 {
            list.swap_remove(list.len() - 1);
        }
        assert_eq!(places(&list), before);
        let spilled = list.spilled.as_ref().expect("many are not inline");
        assert_eq!(spilled.others.len(), 9, "no empty piece is kept");
        let sizes = spilled.others.iter().map(Vec::capacity);
        assert!(sizes.eq((0..9).map(|other| FIRST << other)));
    }
}
