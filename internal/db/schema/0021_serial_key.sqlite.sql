-- Rows: serial_key begins with the first 32 bits of the serial number instead of those
-- of its hash, so that serials that begin with the time, as ours do, are together
-- in the index; the other half stays a hash, for serials with a long common
-- beginning.
UPDATE inventory SET serial_key = (
	WITH digit (i) AS (VALUES (1), (2), (3), (4), (5), (6), (7), (8))
	SELECT sum(max(instr('0123456789abcdef', substr(ltrim(serial, '-') || '00000000', i, 1)) - 1, 0) << (4 * (8 - i))) FROM digit
) << 32 | ((serial_key >> 32) & 4294967295);
