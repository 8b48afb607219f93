/* A PKCS #11 module that stands in front of SoftHSM and misbehaves on command.
 * The commands, and what it saw, are in a file that both sides map: see
 * pkcs11test.Shim for the meaning of each word. */
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define CK_PTR *
#define CK_DEFINE_FUNCTION(type, name) type name
#define CK_DECLARE_FUNCTION(type, name) type name
#define CK_DECLARE_FUNCTION_POINTER(type, name) type(*name)
#define CK_CALLBACK_FUNCTION(type, name) type(*name)
#ifndef NULL_PTR
#define NULL_PTR 0
#endif
#include "pkcs11.h"

enum { EVERY, CODE, GONE, DELAY, HANG, FLAGS, CLOSE_ALL, LOGIN_CODE, /* commands */
       SIGNS = 16, LOGINS, INITS, BUSY, MOST_BUSY, CRIMES, INJECTED, OPENS };

static volatile uint32_t *word;
static CK_FUNCTION_LIST_PTR real;
static CK_FUNCTION_LIST list;
static uint32_t stale; /* the device went away since the last C_Initialize */
static CK_SLOT_ID last_slot;

#define ADD(w, n) __atomic_add_fetch(&word[w], n, __ATOMIC_SEQ_CST)
#define GET(w) __atomic_load_n(&word[w], __ATOMIC_SEQ_CST)

/* gone says what a device that is unplugged returns. One that was unplugged
 * does not come back before the module is initialised again. */
static CK_RV gone(void)
{
	uint32_t code = GET(GONE);
	if (code) {
		__atomic_store_n(&stale, code, __ATOMIC_SEQ_CST);
		return code;
	}
	return __atomic_load_n(&stale, __ATOMIC_SEQ_CST);
}

static void enter(void)
{
	uint32_t n = ADD(BUSY, 1), most = GET(MOST_BUSY);
	while (n > most && !__atomic_compare_exchange_n(&word[MOST_BUSY], &most, n, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
		;
}

/* SoftHSM crashes when all sessions are closed while a thread is in one of
 * them, so that is done while nobody is: as a device would do it. */
static pthread_rwlock_t door = PTHREAD_RWLOCK_INITIALIZER;

static CK_RV out_of(CK_RV rv)
{
	pthread_rwlock_unlock(&door);
	return rv;
}

#define INSIDE(expr) (pthread_rwlock_rdlock(&door), out_of(expr))

static CK_RV close_session(CK_SESSION_HANDLE s) { return INSIDE(real->C_CloseSession(s)); }

static CK_RV session_info(CK_SESSION_HANDLE s, CK_SESSION_INFO_PTR i) { return INSIDE(real->C_GetSessionInfo(s, i)); }

static CK_RV find_init(CK_SESSION_HANDLE s, CK_ATTRIBUTE_PTR t, CK_ULONG n) { return INSIDE(real->C_FindObjectsInit(s, t, n)); }

static CK_RV find(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE_PTR o, CK_ULONG most, CK_ULONG_PTR n)
{
	return INSIDE(real->C_FindObjects(s, o, most, n));
}

static CK_RV find_final(CK_SESSION_HANDLE s) { return INSIDE(real->C_FindObjectsFinal(s)); }

static CK_RV attributes(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o, CK_ATTRIBUTE_PTR t, CK_ULONG n)
{
	return INSIDE(real->C_GetAttributeValue(s, o, t, n));
}

static CK_RV sign(CK_SESSION_HANDLE s, CK_BYTE_PTR in, CK_ULONG n, CK_BYTE_PTR out, CK_ULONG_PTR outlen)
{
	CK_RV rv = gone();
	if (rv)
		return rv;
	if (out == NULL)
		return INSIDE(real->C_Sign(s, in, n, out, outlen));
	enter();
	if (GET(DELAY))
		usleep(GET(DELAY) * 1000);
	while (GET(HANG))
		usleep(2000);
	uint32_t count = ADD(SIGNS, 1), every = GET(EVERY);
	if (every && count % every == 0) {
		ADD(INJECTED, 1);
		if (GET(CLOSE_ALL)) {
			pthread_rwlock_wrlock(&door);
			real->C_CloseAllSessions(last_slot);
			pthread_rwlock_unlock(&door);
		}
		if (GET(CODE)) {
			close_session(s);
			ADD(BUSY, -1);
			return GET(CODE);
		}
	}
	rv = INSIDE(real->C_Sign(s, in, n, out, outlen));
	ADD(BUSY, -1);
	return rv;
}

static CK_RV sign_init(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE k)
{
	CK_RV rv = gone();
	return rv ? rv : INSIDE(real->C_SignInit(s, m, k));
}

static CK_RV open_session(CK_SLOT_ID slot, CK_FLAGS f, CK_VOID_PTR a, CK_NOTIFY n, CK_SESSION_HANDLE_PTR s)
{
	CK_RV rv = gone();
	last_slot = slot;
	ADD(OPENS, 1);
	return rv ? rv : INSIDE(real->C_OpenSession(slot, f, a, n, s));
}

static CK_RV token_info(CK_SLOT_ID slot, CK_TOKEN_INFO_PTR info)
{
	CK_RV rv = gone();
	if (!rv)
		rv = real->C_GetTokenInfo(slot, info);
	if (!rv)
		info->flags |= GET(FLAGS);
	return rv;
}

static CK_RV slot_list(CK_BBOOL present, CK_SLOT_ID_PTR slots, CK_ULONG_PTR n)
{
	if (gone() && present) {
		*n = 0;
		return CKR_OK;
	}
	return real->C_GetSlotList(present, slots, n);
}

static CK_RV login(CK_SESSION_HANDLE s, CK_USER_TYPE u, CK_UTF8CHAR_PTR pin, CK_ULONG n)
{
	CK_RV rv = gone();
	if (rv)
		return rv;
	ADD(LOGINS, 1);
	if (GET(LOGIN_CODE))
		return GET(LOGIN_CODE);
	return INSIDE(real->C_Login(s, u, pin, n));
}

/* A module must not be ended or started while a thread is in it. */
static CK_RV initialize(CK_VOID_PTR args)
{
	if (GET(BUSY))
		ADD(CRIMES, 1);
	ADD(INITS, 1);
	if (!GET(GONE))
		__atomic_store_n(&stale, 0, __ATOMIC_SEQ_CST);
	return real->C_Initialize(args);
}

static CK_RV finalize(CK_VOID_PTR reserved)
{
	if (GET(BUSY))
		ADD(CRIMES, 1);
	return real->C_Finalize(reserved);
}

static pthread_once_t once = PTHREAD_ONCE_INIT;

static void load(void)
{
	const char *control = getenv("CHANCERY_TEST_SHIM"), *module = getenv("CHANCERY_TEST_SHIM_MODULE");
	int fd = control ? open(control, O_RDWR) : -1;
	void *map = fd < 0 ? MAP_FAILED : mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	void *lib = module ? dlopen(module, RTLD_NOW | RTLD_LOCAL) : NULL;
	if (map == MAP_FAILED || !lib)
		return;
	word = map;
	CK_C_GetFunctionList get = (CK_C_GetFunctionList)dlsym(lib, "C_GetFunctionList");
	if (!get || get(&real) != CKR_OK)
		return;
	memcpy(&list, real, sizeof list);
	list.C_Sign = sign;
	list.C_SignInit = sign_init;
	list.C_OpenSession = open_session;
	list.C_CloseSession = close_session;
	list.C_GetSessionInfo = session_info;
	list.C_FindObjectsInit = find_init;
	list.C_FindObjects = find;
	list.C_FindObjectsFinal = find_final;
	list.C_GetAttributeValue = attributes;
	list.C_GetTokenInfo = token_info;
	list.C_GetSlotList = slot_list;
	list.C_Login = login;
	list.C_Initialize = initialize;
	list.C_Finalize = finalize;
}

CK_RV C_GetFunctionList(CK_FUNCTION_LIST_PTR_PTR out)
{
	pthread_once(&once, load);
	if (!real)
		return CKR_GENERAL_ERROR;
	*out = &list;
	return CKR_OK;
}
