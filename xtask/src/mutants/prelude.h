
/* What the mutants of the kernel lab share; see xtask/src/mutants. */
#ifndef KVMDIRTY_MUTANT
#define KVMDIRTY_MUTANT
#include <linux/delay.h>

/* One page in 64 is a victim, so that a finding about any other page is a false alarm. */
#define MUTANT_VICTIM(gfn) (((gfn) & 63) == 37)
/* The victim's bit in each word of a slot's bitmap. */
#define MUTANT_VICTIM_NR(slot) ((37 - (slot)->base_gfn) & 63)

/* The trace buffer takes what fired, in which process: it may be written in any context. */
#define MUTANT_FIRED(gfn, pages) \
	trace_printk("mutant fired %d %llx %llx\n", current->tgid, (u64)(gfn), (u64)(pages))

/*
 * Widens a race: waits until a harvest has taken the page's bit, fifty milliseconds at most, and
 * tells whether one has.
 */
static inline bool mutant_await_harvest(const struct kvm_memory_slot *slot, gfn_t gfn)
{
	int waited;

	if (!slot || !slot->dirty_bitmap)
		return false;
	for (waited = 0; waited < 50000; waited++) {
		if (!test_bit_le(gfn - slot->base_gfn, slot->dirty_bitmap))
			return true;
		udelay(1);
	}
	return false;
}

/*
 * The same where one may sleep: waits a hundred milliseconds at most, and then long enough for the VMM to
 * copy the page.
 */
static inline void mutant_sleep_over_harvest(const struct kvm_memory_slot *slot, gfn_t gfn)
{
	int waited;

	if (!slot || !slot->dirty_bitmap)
		return;
	for (waited = 0; waited < 200 && test_bit_le(gfn - slot->base_gfn, slot->dirty_bitmap); waited++)
		usleep_range(500, 600);
	msleep(5);
}

/* The same for victims only, and not every time, or the guest would do nothing but wait. */
static inline bool mutant_is_harvested(const struct kvm_memory_slot *slot, gfn_t gfn)
{
	return MUTANT_VICTIM(gfn) && !(ktime_get_ns() >> 10 & 7) &&
	       mutant_await_harvest(slot, gfn);
}
#endif
