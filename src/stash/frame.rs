// SPDX-License-Identifier: MIT OR Apache-2.0
//! The state word of a frame: 64 bits that say who owns it.
//!
//! ```text
//!  63            32 31       23   22      21     20    19        0
//! +----------------+-----------+-------+------+------+-----------+
//! |    SEQUENCE    |fingerprint|WRITING|CACHED|ACTIVE|  CLAIMS   |
//! +----------------+-----------+-------+------+------+-----------+
//! ```
//!
//! All zero is dormant: a fresh zeroed table needs no set-up and lends nothing. The low 20
//! bits count the claims on the frame's block, so a claim is one addition that no
//! compare-and-swap of a put can overtake: every transition to a page that can be read
//! compares the whole word.

/// Bits of [`StateWord`] that count claims.
const CLAIMS: u64 = (1 << 20) - 1;
/// The frame is lent to the stash while no claim holds its block.
pub const ACTIVE: u64 = 1 << 20;
/// The frame holds a page.
pub const CACHED: u64 = 1 << 21;
/// A put is writing the frame.
pub const WRITING: u64 = 1 << 22;
const FINGERPRINT_SHIFT: u32 = 23;
const FINGERPRINT_BITS: u32 = 9;
const FINGERPRINT: u64 = ((1 << FINGERPRINT_BITS) - 1) << FINGERPRINT_SHIFT;
const SEQUENCE_SHIFT: u32 = 32;

const _: () = assert!(CLAIMS + 1 == crate::tags::geometry::MAX_CLAIMS);

/// Some bits of a key's hash, kept in the state word so that most other keys are told apart
/// without reading them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(u64);

impl Fingerprint {
    /// Takes the fingerprint from the low bits of a hash.
    #[inline(always)]
    pub const fn of(hash: u64) -> Fingerprint {
        Fingerprint((hash << FINGERPRINT_SHIFT) & FINGERPRINT)
    }
}

/// A value of a frame's state word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateWord(pub u64);

impl StateWord {
    /// Claims on the frame's block.
    #[inline(always)]
    pub const fn claims(self) -> u64 {
        self.0 & CLAIMS
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

    /// *live*: a get may read it. No claims, active, cached, not being written.
    #[inline(always)]
    pub const fn is_live(self) -> bool {
        self.0 & (CLAIMS | ACTIVE | CACHED | WRITING) == ACTIVE | CACHED
    }

    /// *live*, with this fingerprint.
    #[inline(always)]
    pub const fn is_live_with(self, fingerprint: Fingerprint) -> bool {
        self.0 & (CLAIMS | ACTIVE | CACHED | WRITING | FINGERPRINT)
            == ACTIVE | CACHED | fingerprint.0
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

    /// Says whether the stash has it (no claims, active) with this fingerprint.
    #[inline(always)]
    pub const fn is_lent_with(self, fingerprint: Fingerprint) -> bool {
        self.0 & (CLAIMS | ACTIVE | FINGERPRINT) == ACTIVE | fingerprint.0
    }

    /// Says whether a put under way must stop: the frame was claimed or taken back.
    #[inline(always)]
    pub const fn is_revoked(self) -> bool {
        self.0 & (CLAIMS | ACTIVE) != ACTIVE
    }

    /// The word without its page.
    #[inline(always)]
    pub const fn dropped(self) -> StateWord {
        StateWord(self.0 & !CACHED)
    }

    /// From an *open* word: being written, with this fingerprint and the next sequence number,
    /// which tells this page from every other that the frame held before.
    #[inline(always)]
    pub const fn writing(self, fingerprint: Fingerprint) -> StateWord {
        let sequence = (self.0 >> SEQUENCE_SHIFT).wrapping_add(1) << SEQUENCE_SHIFT;
        StateWord(ACTIVE | WRITING | fingerprint.0 | sequence)
    }

    /// From the word that [`writing`](Self::writing) made: the page can be read.
    #[inline(always)]
    pub const fn published(self) -> StateWord {
        StateWord((self.0 | CACHED) & !WRITING)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FP: Fingerprint = Fingerprint::of(0x1a5);

    /// Every combination of the deciding bits, against the definitions spelled out.
    #[test]
    fn live_open_free_and_revoked_are_what_the_protocol_says() {
        for bits in 0..16u64 {
            let (claimed, active) = (bits & 1 != 0, bits & 2 != 0);
            let (cached, writing) = (bits & 4 != 0, bits & 8 != 0);
            let word = StateWord(
                if claimed { 7 } else { 0 }
                    | if active { ACTIVE } else { 0 }
                    | if cached { CACHED } else { 0 }
                    | if writing { WRITING } else { 0 }
                    | FP.0
                    | 0xffff_ffff << SEQUENCE_SHIFT,
            );
            assert_eq!(word.is_live(), !claimed && active && cached && !writing);
            assert_eq!(word.is_live_with(FP), word.is_live());
            assert!(!word.is_live_with(Fingerprint::of(0x1a4)));
            assert_eq!(word.is_open(), !claimed && active && !writing);
            assert_eq!(word.is_free(), !claimed && active && !writing && !cached);
            assert_eq!(word.is_revoked(), claimed || !active);
            assert_eq!(word.is_lent_with(FP), !claimed && active);
            assert_eq!(word.claims(), if claimed { 7 } else { 0 });
        }
    }

    #[test]
    fn all_zero_is_dormant() {
        let zero = StateWord(0);
        assert!(!zero.is_live() && !zero.is_open() && zero.is_revoked() && !zero.is_active());
    }

    #[test]
    fn writing_moves_the_sequence_and_it_wraps_into_nothing_else() {
        let open = StateWord(ACTIVE | CACHED | FINGERPRINT | 0xffff_ffff << SEQUENCE_SHIFT);
        let writing = open.writing(FP);
        assert_eq!(writing, StateWord(ACTIVE | WRITING | FP.0));
        assert_eq!(writing.published(), StateWord(ACTIVE | CACHED | FP.0));
        assert_eq!(writing.writing(FP).0 >> SEQUENCE_SHIFT, 1);
    }

    #[test]
    fn the_fields_do_not_overlap_and_fill_the_word() {
        let fields = [CLAIMS, ACTIVE, CACHED, WRITING, FINGERPRINT, !0 << SEQUENCE_SHIFT];
        assert_eq!(fields.iter().fold(0, |all, f| all ^ f), u64::MAX);
        assert_eq!(fields.iter().map(|f| f.count_ones()).sum::<u32>(), 64);
    }
}
