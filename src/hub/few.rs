//! A list that most often holds one, and then needs no memory of its own: the channels of a peer,
//! the connections of a user, the members of a private channel.

use std::ops::{Deref, DerefMut};

/// None, one, or many in their order. As large as one and a word.
#[derive(Debug, Default)]
pub(super) enum Few<T> {
    /// None.
    #[default]
    None,
    /// One.
    One(T),
    /// As many as there are, or there have been a moment ago.
    #[allow(clippy::box_collection)] // one word, because it is rarely there
    Many(Box<Vec<T>>),
}

impl<T> Few<T> {
    /// Puts one more at the end.
    pub fn push(&mut self, value: T) {
        *self = match std::mem::take(self) {
            Few::None => Few::One(value),
            Few::One(first) => {
                let mut all = Vec::with_capacity(2);
                all.extend([first, value]);
                Few::Many(Box::new(all))
            }
            Few::Many(mut all) => {
                all.push(value);
                Few::Many(all)
            }
        };
    }

    /// Takes one out; the last one takes its place. Gives memory back as the list gets short.
    ///
    /// # Panics
    /// If there is none at that index.
    pub fn swap_remove(&mut self, index: usize) -> T {
        match std::mem::take(self) {
            Few::One(value) if index == 0 => value,
            Few::Many(mut all) => {
                let value = all.swap_remove(index);
                if all.len() * 4 <= all.capacity() {
                    all.shrink_to(all.len() * 2);
                }
                *self = match all.len() {
                    1 => all.pop().map_or(Few::None, Few::One),
                    _ => Few::Many(all),
                };
                value
            }
            Few::None | Few::One(_) => panic!("there is none at {index}"),
        }
    }
}

impl<T> Deref for Few<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        match self {
            Few::None => &[],
            Few::One(value) => std::slice::from_ref(value),
            Few::Many(all) => all,
        }
    }
}

impl<T> DerefMut for Few<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match self {
            Few::None => &mut [],
            Few::One(value) => std::slice::from_mut(value),
            Few::Many(all) => all,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_list() {
        let (mut few, mut list, mut random) = (Few::default(), Vec::new(), 7_u32);
        for value in 0..10_000_u32 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let is_growing = (value / 50) % 2 == 0;
            if list.is_empty() || is_growing == ((random >> 16) % 4 > 0) {
                few.push(value);
                list.push(value);
            } else {
                let index = (random >> 8) as usize % list.len();
                assert_eq!(few.swap_remove(index), list.swap_remove(index));
            }
            assert_eq!(*few, *list);
            assert_eq!(list.len() == 1, matches!(few, Few::One(_)));
        }
    }

    #[test]
    fn one_costs_no_more_than_a_word_beside_itself() {
        assert_eq!(size_of::<Few<[u32; 2]>>(), 16);
        assert_eq!(size_of::<Few<[u32; 4]>>(), 24);
    }
}
