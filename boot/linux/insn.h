/* SPDX-License-Identifier: GPL-2.0-only */
/* Knows the instructions that store tags. Needs nothing of the kernel but its types. */
#ifndef TAGSTASH_INSN_H
#define TAGSTASH_INSN_H

/**
 * tagstash_stores_tags() - decodes an instruction
 * @insn: the instruction
 *
 * By the Arm ARM (DDI 0487), C4.1: "Load/store memory tags", "Load/store register pair", "Memory
 * Copy and Memory Set", and SYS with the operations of DC. Operations that only clean or invalidate
 * tags store none.
 *
 * Return: whether it may change tags in memory
 */
static inline bool tagstash_stores_tags(u32 insn)
{
	/*
	 * STG, ST2G, STZG, STZ2G, STGM, STZGM. Bits 11:10 are 0 for the four without an offset, of
	 * which LDG and LDGM load.
	 */
	if ((insn & 0xff200000) == 0xd9200000)
		return (insn & 0x00400c00) != 0x00400000;
	/* STGP. With neither index nor offset, bits 24:23 are 0, which is not allocated. */
	if ((insn & 0xfe400000) == 0x68000000)
		return insn & 0x01800000;
	/* SETGP, SETGM, SETGE and their variants (FEAT_MOPS). */
	if ((insn & 0xffe00c00) == 0x1dc00400)
		return true;
	/* DC GVA, DC GZVA, and the two of FEAT_MTETC. */
	switch (insn & ~0x1f) {
	case 0xd50b7460:
	case 0xd50b7480:
	case 0xd50b74a0:
	case 0xd50b74e0:
		return true;
	}
	return false;
}

/**
 * tagstash_is_address() - tells a literal that is a kernel address from an instruction
 * @place: where the word is
 * @next: the word after it
 *
 * Assembly puts addresses between functions, and with KASLR their low half may look like anything.
 * Their high half is 0xffffxxxx, which is no instruction (it is not allocated): no code that runs
 * through the word before would get past it.
 *
 * Return: whether the word is the low half of an address
 */
static inline bool tagstash_is_address(unsigned long place, u32 next)
{
	return !(place & 7) && next >> 16 == 0xffff;
}

#endif /* TAGSTASH_INSN_H */
