/* What generation needs to see of a session, inside src/infer. */
#ifndef LC_INFER_SESSION_H
#define LC_INFER_SESSION_H
#include "infer/infer.h"

lc_net *lc_session_net(const lc_session *);
int64_t lc_session_context(const lc_session *);
const int32_t *lc_session_ids(const lc_session *); /* of the positions in the cache */
#endif
