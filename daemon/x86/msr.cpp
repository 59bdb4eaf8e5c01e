#include "daemon/x86/msr.h"

namespace vmmd::x86 {

std::vector<kvm_msr_entry> boot_msrs() {
  return {};
}

}  // namespace vmmd::x86
