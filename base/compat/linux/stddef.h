#pragma once

// Debian 12's <linux/stddef.h> declares flexible arrays behind an empty struct, which has a size of 0 in C
// but of 1 in C++: kvm_cpuid2, kvm_msrs, kvm_irq_routing and others get too long, and with them the numbers
// of the ioctls that take them (KVM answers EINVAL). Later kernels declare them for C++ as below.
#include_next <linux/stddef.h>

#undef __DECLARE_FLEX_ARRAY
#define __DECLARE_FLEX_ARRAY(TYPE, NAME) TYPE NAME[0]
