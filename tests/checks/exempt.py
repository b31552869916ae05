"""Sites without which nothing is accepted that was refused before, each with the reason: no test can notice.

The tool still switches them off: one that a test notices has no place here, and is a defect too.
"""

_OPENSSL = "OpenSSL refuses such a scalar as well: ours says so before any arithmetic"
_TYPES = "the bytes before it admit no other key: it is for the type checker"
_SHOWN_ONLY = "any value is accepted: the line is for the reader, who compares it with an image's"

EXEMPT = {
    "attest.azure _require_signed: raise vtpm-key": "no modulus of these lengths is refused by the library "
    "today: it may be tomorrow",
    "attest.azure check vtpm-init-data": _SHOWN_ONLY,
    "attest.azure check vtpm-pcr-digest": _SHOWN_ONLY,
    "attest.endorsement _require_ca: conjunct bool(reader.next_tag())": "reading a BOOLEAN where there is none "
    "is refused as well, with the same outcome",
    "attest.signatures ReportKey.has_signed: false return False": _OPENSSL,
    "attest.signatures load_report_key: raise 'it is not on P-384' (2)": _TYPES,
    "attest.tdx_signatures P256Key.has_signed: operand 0 < r": _OPENSSL,
    "attest.tdx_signatures P256Key.has_signed: operand 0 < s": _OPENSSL,
    "attest.tdx_signatures P256Key.has_signed: operand r < _P256_ORDER": _OPENSSL,
    "attest.tdx_signatures P256Key.has_signed: operand s < _P256_ORDER": _OPENSSL,
    "formats.tdx_json take_time: operand time.tzinfo is not UTC": "a time that is not in UTC is not written "
    "back as it was read: the next comparison refuses it as well",
}
