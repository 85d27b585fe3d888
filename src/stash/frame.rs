// SPDX-License-Identifier: MIT OR Apache-2.0
//! The state word of a frame: 64 bits that say who owns it.
//!
//! ```text
//!  63            32 31       23    22    21         2     1      0
//! +----------------+-----------+------+-----------+-------+------+
//! |    SEQUENCE    |fingerprint|ACTIVE|  CLAIMS   |WRITING|CACHED|
//! +----------------+-----------+------+-----------+-------+------+
//! ```
//!
//! All zero is dormant: a fresh zeroed table needs no set-up and lends nothing. CLAIMS counts
//! the claims on the frame's block, so a claim is one addition that no compare-and-swap of a
//! put can overtake: every transition to a page that can be read compares the whole word.
//!
//! SEQUENCE is the low half of the number that the put drew. It tells a page from every other
//! that the frame held before, and is the page's age. The other bits are in an order that makes
//! two questions cheap. Whether a page may be the one looked for is one compare of the low
//! half. And rotated until the four fields on the right come first, words are in the order in
//! which a put takes frames: read as signed numbers, the smallest of all is a free frame's, then
//! come those with pages, oldest first, and those that a put may not take are last. SEQUENCE wraps,
//! so its top bit is inverted for that while the clock stands in the lower half of its values.

use super::epoch::Stamp;

/// The frame holds a page.
pub const CACHED: u64 = 1 << 0;
/// A put is writing the frame.
pub const WRITING: u64 = 1 << 1;
/// One claim.
pub const CLAIM: u64 = 1 << 2;
const CLAIMS_BITS: u32 = 20;
/// Bits of [`StateWord`] that count claims.
const CLAIMS: u64 = ((1 << CLAIMS_BITS) - 1) * CLAIM;
/// The frame is lent to the stash while no claim holds its block.
pub const ACTIVE: u64 = 1 << 22;
const FINGERPRINT_SHIFT: u32 = 23;
const FINGERPRINT_BITS: u32 = 9;
#[cfg(test)]
const FINGERPRINT: u64 = ((1 << FINGERPRINT_BITS) - 1) << FINGERPRINT_SHIFT;
const SEQUENCE_SHIFT: u32 = 32;

const _: () = assert!(FINGERPRINT_SHIFT + FINGERPRINT_BITS == SEQUENCE_SHIFT);
const _: () = assert!(ACTIVE == 1 << (FINGERPRINT_SHIFT - 1) && CACHED | WRITING == 0b11);
const _: () = assert!(1 << CLAIMS_BITS == crate::tags::geometry::MAX_CLAIMS);

/// Some bits of a key's hash, kept in the state word so that most other keys are told apart
/// without reading them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(u32);

impl Fingerprint {
    /// Takes the fingerprint from the low bits of a hash.
    #[inline(always)]
    pub const fn of(hash: u64) -> Fingerprint {
        Fingerprint((hash as u32) << FINGERPRINT_SHIFT)
    }
}

/// A value of a frame's state word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateWord(pub u64);

impl StateWord {
    /// Claims on the frame's block.
    #[inline(always)]
    pub const fn claims(self) -> u64 {
        (self.0 & CLAIMS) / CLAIM
    }

    /// Says whether the frame is lent to the stash when nobody claims it.
    #[inline(always)]
    pub const fn is_active(self) -> bool {
        self.0 & ACTIVE != 0
    }

    /// Says whether a put is writing the frame.
    #[inline(always)]
    pub const fn is_writing(self) -> bool {
        self.0 & WRITING != 0
    }

    /// Says whether the frame holds a page, or did when it was claimed.
    #[inline(always)]
    pub const fn is_cached(self) -> bool {
        self.0 & CACHED != 0
    }

    /// *live*: a get may read it. No claims, active, cached, not being written.
    #[inline(always)]
    pub const fn is_live(self) -> bool {
        self.0 & (CLAIMS | ACTIVE | CACHED | WRITING) == ACTIVE | CACHED
    }

    /// *live*, with this fingerprint.
    #[inline(always)]
    pub const fn is_live_with(self, fingerprint: Fingerprint) -> bool {
        self.0 as u32 == (ACTIVE | CACHED) as u32 | fingerprint.0
    }

    /// *open*: a put may take it. No claims, active, not being written.
    #[inline(always)]
    pub const fn is_open(self) -> bool {
        self.0 & (CLAIMS | ACTIVE | WRITING) == ACTIVE
    }

    /// *open*, and holds no page.
    #[inline(always)]
    pub const fn is_free(self) -> bool {
        self.0 & (CLAIMS | ACTIVE | CACHED | WRITING) == ACTIVE
    }

    /// Where the frame stands in the order in which a put takes frames: free ones first, then the
    /// one whose page is oldest. Frames that are not *open* are last.
    ///
    /// SEQUENCE wraps: a page that is 2^31 numbers old or older may be taken for a young one.
    #[inline(always)]
    pub const fn rank(self, half: Half) -> Rank {
        // One instruction: a logical one rotates an operand.
        Rank((self.0.rotate_right(FINGERPRINT_SHIFT) ^ half.0) as i64)
    }

    /// The low half of the number of the put that made the word.
    #[inline(always)]
    pub const fn sequence(self) -> u32 {
        (self.0 >> SEQUENCE_SHIFT) as u32
    }

    /// Says whether the word was made by a put that drew its numbers from `stamp` on.
    #[inline(always)]
    pub const fn is_of_put(self, stamp: Stamp, numbers: u32) -> bool {
        self.sequence().wrapping_sub(stamp.0 as u32) < numbers
    }

    /// Says whether the stash has the frame (no claims, active), and it holds a page with this
    /// fingerprint or one is being written.
    #[inline(always)]
    pub const fn is_at_work_with(self, fingerprint: Fingerprint) -> bool {
        // Both at once never are.
        let lent = ACTIVE as u32 | fingerprint.0;
        self.0 as u32 == lent | CACHED as u32 || self.0 as u32 == lent | WRITING as u32
    }

    /// The word without its page.
    #[inline(always)]
    pub const fn dropped(self) -> StateWord {
        StateWord(self.0 & !CACHED)
    }

    /// The word of a frame that a put is writing, with this fingerprint and the put's number.
    /// Nobody else changes it but by a claim or by taking the frame back, so that the put must
    /// stop when it finds another value.
    #[inline(always)]
    pub const fn writing(fingerprint: Fingerprint, number: u64) -> StateWord {
        StateWord(ACTIVE | WRITING | number << SEQUENCE_SHIFT | fingerprint.0 as u64)
    }

    /// From the word that [`writing`](Self::writing) made: the page can be read.
    #[inline(always)]
    pub const fn published(self) -> StateWord {
        StateWord((self.0 | CACHED) & !WRITING)
    }
}

/// The half of SEQUENCE's values in which the clock stands. The pages of that half are younger than
/// those of the other, which is where the clock was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Half(u64);

impl Half {
    /// The half in which a put's numbers are.
    #[inline(always)]
    pub const fn of(now: Stamp) -> Half {
        // In the lower half it is SEQUENCE's top bit, where a rank has it, to be inverted.
        Half((!now.0 >> 31 & 1) << (63 - FINGERPRINT_SHIFT))
    }
}

/// The place of a word in the order in which a put takes frames. Smaller is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank(i64);

impl Rank {
    /// The last of all: no frame's.
    pub const LAST: Rank = Rank(i64::MAX);

    /// The word that stands there.
    #[inline(always)]
    pub const fn word(self, half: Half) -> StateWord {
        StateWord((self.0 as u64 ^ half.0).rotate_left(FINGERPRINT_SHIFT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FP: Fingerprint = Fingerprint::of(0x1a5);

    fn word(claimed: bool, active: bool, cached: bool, writing: bool, sequence: u64) -> StateWord {
        StateWord(
            if claimed { 7 * CLAIM } else { 0 }
                | if active { ACTIVE } else { 0 }
                | if cached { CACHED } else { 0 }
                | if writing { WRITING } else { 0 }
                | u64::from(FP.0)
                | sequence << SEQUENCE_SHIFT,
        )
    }

    /// Every combination of the deciding bits.
    fn all_words(sequence: u64) -> impl Iterator<Item = ([bool; 4], StateWord)> {
        (0..16u64).map(move |bits| {
            let [claimed, active, cached, writing] = [1, 2, 4, 8].map(|bit| bits & bit != 0);
            ([claimed, active, cached, writing], word(claimed, active, cached, writing, sequence))
        })
    }

    /// Every combination of the deciding bits, against the definitions spelled out.
    #[test]
    fn live_open_and_free_are_what_the_protocol_says() {
        for ([claimed, active, cached, writing], word) in all_words(0xffff_ffff) {
            assert_eq!(word.is_live(), !claimed && active && cached && !writing);
            assert_eq!(word.is_live_with(FP), word.is_live());
            assert!(!word.is_live_with(Fingerprint::of(0x1a4)));
            assert_eq!(word.is_open(), !claimed && active && !writing);
            assert_eq!(word.is_free(), !claimed && active && !writing && !cached);
            let at_work = !claimed && active && (cached != writing);
            assert_eq!(word.is_at_work_with(FP), at_work);
            assert!(!word.is_at_work_with(Fingerprint::of(0x1a4)));
            assert!(!word.is_at_work_with(Fingerprint::of(0x1a6)));
            assert_eq!((word.is_cached(), word.is_writing()), (cached, writing));
            assert_eq!(word.claims(), if claimed { 7 } else { 0 });
        }
    }

    /// Whatever the age of each: a free frame before one with a page, the older page before the
    /// younger, an open frame before one that is not.
    #[test]
    fn the_order_of_words_is_the_order_in_which_a_put_takes_frames() {
        let kind = |w: StateWord| match (w.is_free(), w.is_open()) {
            (true, _) => 0,
            (false, true) => 1,
            (false, false) => 2,
        };
        // The clock, and two sequences of which the first is the older one.
        for (now, older, younger) in [
            (0xffff_ffff, 4, 5),
            (0xffff_ffff, 0x7fff_ffff, 0x8000_0000),
            (0x1_0000_0000, 0xffff_ffff, 0),
            (0x1_7fff_ffff, 0x8000_0000, 0x7fff_ffff),
            (0x1_8000_0000, 0x7fff_ffff, 0x8000_0000),
            (9, 1, 2),
        ] {
            let half = Half::of(Stamp(now));
            assert!(!Rank::LAST.word(half).is_open());
            for (mine, yours) in [(older, younger), (younger, older), (younger, younger)] {
                for (_, a) in all_words(mine) {
                    assert!(a.rank(half) <= Rank::LAST && a.rank(half).word(half) == a);
                    for (_, b) in all_words(yours) {
                        if kind(a) < kind(b) {
                            assert!(a.rank(half) < b.rank(half), "{a:x?} {b:x?}");
                        }
                        if kind(a) == 1 && kind(b) == 1 {
                            let first = mine == older && yours == younger;
                            assert_eq!(a.rank(half) < b.rank(half), first, "{a:x?} {b:x?}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn all_zero_is_dormant() {
        let zero = StateWord(0);
        assert!(!zero.is_live() && !zero.is_open() && !zero.is_active());
    }

    #[test]
    fn a_number_fills_its_field_and_wraps_into_no_other() {
        for number in [0, 1, 0xffff_ffff, 0x1_0000_0005, u64::MAX] {
            let writing = StateWord::writing(FP, number);
            let own = word(false, true, false, true, number & 0xffff_ffff);
            assert_eq!(writing, own);
            assert_eq!(writing.published(), word(false, true, true, false, number & 0xffff_ffff));
            assert_eq!(
                writing.published().dropped(),
                word(false, true, false, false, number & 0xffff_ffff)
            );
        }
    }

    #[test]
    fn the_numbers_of_a_put_are_told_from_others_across_the_wrap() {
        let of = |number| StateWord::writing(FP, number).published();
        for first in [0, 7, 0xffff_fff8, 0x2_ffff_ffff] {
            for offset in 0..16 {
                assert!(of(first + offset).is_of_put(Stamp(first), 16));
            }
            assert!(!of(first + 16).is_of_put(Stamp(first), 16));
            assert!(!of(first.wrapping_sub(1)).is_of_put(Stamp(first), 16));
        }
    }

    #[test]
    fn the_fields_do_not_overlap_and_fill_the_word() {
        let sequence = u64::MAX << SEQUENCE_SHIFT;
        let fields = [CLAIMS, ACTIVE, CACHED, WRITING, FINGERPRINT, sequence];
        assert_eq!(fields.iter().fold(0, |all, f| all ^ f), u64::MAX);
        assert_eq!(fields.iter().map(|f| f.count_ones()).sum::<u32>(), 64);
    }
}
