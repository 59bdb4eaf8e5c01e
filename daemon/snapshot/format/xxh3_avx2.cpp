#include "daemon/snapshot/format/xxh3_body.h"

namespace vmmd::snapshot::xxh3 {

Functions avx2() {
  return kFunctions;
}

}  // namespace vmmd::snapshot::xxh3
