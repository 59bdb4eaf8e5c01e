#pragma once

namespace vmmd {

/// Lets this thread, which works for microseconds at a time, run as soon as it wakes even where its CPU is in
/// the middle of another's time slice, such as a vCPU's: it asks the scheduler for the shortest slices
/// (sched_setattr(2), Linux 6.12). Its share of the CPU stays what it was. Elsewhere, and under real-time
/// priority, it changes nothing.
void ask_for_short_slices();

}  // namespace vmmd
