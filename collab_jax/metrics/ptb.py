r"""Splits a line into tokens as Stanford's PTBTokenizer 3.4.1 does.

The tokenizer of coco-caption is a scanner: at each place the rule with the
longest match decides, what it looks ahead at counted in, and of equal ones the
first. The table `_RULES` holds these rules as regular expressions: group 1 is
the token, what stands behind it is looked at and not taken. Every expression
is written so that its first match is its longest.

Source: the documented behaviour of PTBLexer in Stanford CoreNLP 3.4.1, and the
output of its jar, with which thousands of captions are compared in the tests.
"""

from collections.abc import Callable
import re

from collab_jax.metrics import ptb_characters

_LETTER = f'[{ptb_characters.LETTERS}]'
_DIGIT = f'[{ptb_characters.DIGITS}]'
_ALNUM = f'[{ptb_characters.LETTERS}{ptb_characters.DIGITS}]'
_ACCENTED = '&[aeiouAEIOU](?i:acute|grave|uml);'
_WORD_LETTER = (
  f'(?:[{ptb_characters.LETTERS}{ptb_characters.MARKS}]|{_ACCENTED})'
)
_WORD_ALNUM = (
  f'(?:[{ptb_characters.LETTERS}{ptb_characters.MARKS}'
  f'{ptb_characters.DIGITS}]|{_ACCENTED})'
)
_WORD = f'{_WORD_LETTER}{_WORD_ALNUM}*(?:[.!?]{_WORD_LETTER}{_WORD_ALNUM}*)*'

_SPACE = '[ \\t\xa0\u2000-\u200a\u3000]'
_SPACE_OR_LINE = (
  '(?:\\r\\n|[ \\t\\r\\n\\x0b\\x0c\x85\xa0\u2000-\u200a\u2028\u2029\u3000])'
)

_APOSTROPHE = "(?:['\x92\u2019]|(?i:&apos;))"
# Those that stand inside a word too, rightly or wrongly.
_ANY_APOSTROPHE = "(?:['\x92\u2019`\x91\u2018\u201b]|(?i:&apos;))"
_SUFFIX = f'{_APOSTROPHE}(?:[msdMSD]|(?i:re|ve|ll))'
_NOT = f'(?i:n){_ANY_APOSTROPHE}(?i:t)'

_NUMBER = f'[-+]?(?:{_DIGIT}*(?:[.:,\xad\u066b\u066c]{_DIGIT}+)+|{_DIGIT}+)'
_HYPHEN = '[-_\u058a\u2010\u2011]'
_ELIDED = f'(?:[dDoOlL]{_ANY_APOSTROPHE}{_ALNUM})?{_ALNUM}+'  # d'oh, l'eau
_HYPHENATED = f'{_ELIDED}(?:{_HYPHEN}{_ELIDED})*'
# Words and initials joined by hyphens; dots and commas may stand in the first.
_COMPOUND = (
  '[A-Za-z0-9][A-Za-z0-9.,\xad]*'
  '(?:-(?:[A-Za-z](?:\\.[A-Za-z])+\\.|[A-Za-z0-9\xad]+))+'
)
_COMPANY = '[A-Z]+(?:(?:(?i:&amp;)|[+&])[A-Z]+)+'  # AT&T
_CLAUSE_MARK = '[,;:\u3001]'

# Left out, because they stand more often for words: May, Sat, Sun, Me, Fed.
_MONTHS_AND_DAYS = (
  'Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec|Mon|Tues?|Wed|Thurs?|Fri|Thu'
)
_STATES = (
  'Ala|Ariz|Calif|Colo|Conn|Ct|Dak|Fla|Ga|Ind|Kans?|Ky|Md|Mich|Minn|Mo|Mont|'
  'Neb|Nev|Okla|Penn|Tenn|Va|Vt|Wisc?|Wyo'
)
# Words in small letters: abbreviations only with a capital.
_CAPITAL_STATES = (
  'A(?i:z|rk)|D(?i:el)|I(?i:ll)|L(?i:a)|M(?i:ass|iss)|O(?i:re)|P(?i:a)|'
  'T(?i:ex)|W(?i:ash)'
)
_COMPANIES = 'Inc|Cos?|Corp|Ltd|Plc|Rt|Bancorp|Bhd|Assn|Univ|Intl|Sys'
_OTHER = 'tel|est|ext|sq|Jr|Sr|Bros|(?:Ed|Ph)\\.D|Blvd|Rd|Esq|etc|al|seq|Bldg'
_TITLES = (
  'Mrs?|Ms|Drs?|Profs?|Sens?|Reps?|Attys?|Lt|Col|Gen|Messrs|Govs?|Adm|Rev|Maj|'
  'Sgt|Cpl|Pvt|Capt|Ste?|Ave|Pres|Lieut|Hon|Brig|Co?mdr|Pfc|Spc|Supts?|Det|Mt|'
  'Ft|Adj|Adv|Asst|Assoc|Ens|Insp|Mlle|Mme|Msgr|Sfc|vs|Alex|Wm|Jos|Cie|'
  'a\\.k\\.a|cf|TREAS|Ph|Invt|Elec|Natl|Dept'
)
_US = (
  '(?i:canada|sino|korean|eu|japan|non)-(?i:u\\.s)|'
  '(?i:u\\.s\\.-u\\.(?:k|s\\.s\\.r))'
)
_ABBREVIATION = (
  f'(?:(?i:{_MONTHS_AND_DAYS}|{_STATES}|{_COMPANIES}|{_OTHER})|'
  f'{_CAPITAL_STATES}|(?i:pp?t)[ye](?i:s?))\\.'
)
_INITIALS = f'(?:[A-Za-z](?:\\.[A-Za-z])*|{_US})'
_TITLE = f'(?:(?i:{_TITLES})|M(?i:iss)|(?i:m)[ft](?i:g)|{_INITIALS})\\.'
_BEFORE_NUMBERS = '(?i:ca|figs?|prop|nos?|art|bldg|pp|op)\\.'
# A sentence begins with these, so that a letter and a dot before them are the
# end of one ('plan B. The dog') and not an initial.
_SENTENCE_STARTS = (
  'A(?i:bout|ccording|dditionally|fter|n|s|t|)|B(?i:ut)|E(?i:arlier)|'
  'H(?i:ere|er|e|owever)|I(?i:f|n|t)|L(?i:ast)|M(?i:any|ore|r\\.|s\\.)|N(?i:ow)|'
  'O(?i:nce|ne|ther|ur)|S(?i:he|ince|ome|o|uch)|'
  'T(?i:hat|heir|hen|here|hese|hey|he|his)|W(?i:e|hen|hile|hat)|Y(?i:et|ou)'
)

_NAME = '[A-Za-z][A-Za-z0-9_:.-]*'
_TAG = (
  '<(?:[!?][A-Za-z-][^>\\r\\n]*|'
  f'{_NAME}(?: +{_NAME}(?: *= *(?:\'[^\']*\'|"[^"]*"))?)* */?|'
  f'/{_NAME}) *>'
)
_PATH = '/[^ \\t\\n\\f\\r"<>|()]+[^ \\t\\n\\f\\r"<>|.!?(){},-]'
_WEB_SITE = '(?i:www)\\.(?:[^ \\t\\n\\f\\r"<>|.!?(){},]+\\.)+[a-zA-Z]{2,4}'
_BARE_SITE = '(?:[^ \\t\\n\\f\\r"`\'<>|.!?(){},-_$]+\\.)+(?i:com|net|org|edu)'
_MAIL_NAME = '[^ \\t\\n\\f\\r"<>|()\xa0{}]'
_MAIL_HOST = '[^ \\t\\n\\f\\r"<>|(){}.\xa0]'
_MAIL = (
  f'(?:(?i:&lt;)|<)?[a-zA-Z0-9]{_MAIL_NAME}*@'
  f'(?:{_MAIL_HOST}+\\.)*{_MAIL_HOST}+(?:(?i:&gt;)|>)?'
)
_FILE = (
  f'{_WORD_ALNUM}+(?:\\.{_WORD_ALNUM}+)*\\.(?i:bat|bmp|class|cgi|cpp|c|dll|docx|'
  'doc|exe|gif|gz|html|htm|h|jar|java|jpeg|jpg|mov|mp3|pdf|php|pl|png|ppt|ps|'
  'py|sql|tar|txt|wav|xml|x|zip)'
)
_PHONE = (
  '(?:\\([0-9]{2,3}\\)[ \xa0]?|'
  '(?:\\+\\+?)?(?:[0-9]{2,4}[- \xa0])?[0-9]{2,4}[- \xa0])'
  '[0-9]{3,4}[- \xa0]?[0-9]{3,5}'
)
_DOTTED_PHONE = (
  '(?:(?:\\+\\+?)?[0-9]{2,4}\\.)?[0-9]{2,4}\\.[0-9]{3,4}\\.[0-9]{3,5}'
)
_SLASHED = '[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}'  # and/or

_QUOTES = str.maketrans(
  {
    '\x91': '`',
    '\u2018': '`',
    '\u201b': '`',
    '\u2039': '`',
    '\x92': "'",
    '\u2019': "'",
    '\u203a': "'",
    '\x93': '``',
    '\u201c': '``',
    '\xab': '``',
    '\x94': "''",
    '\u201d': "''",
    '\xbb': "''",
  }
)
_CURRENCY = str.maketrans(
  {'\xa2': 'cents', '\xa3': '#', '\x80': '$', '\xa4': '$', '\u20a0': '$'}
  | {'\u20ac': '$'}
)
_FRACTIONS = str.maketrans(
  {'\xbc': '1/4', '\xbd': '1/2', '\xbe': '3/4'}
  | {'\u2153': '1/3', '\u2154': '2/3'}
)
_BRACKETS = str.maketrans({'(': '-LRB-', ')': '-RRB-', ' ': '\xa0'})
_ALL_BRACKETS = {
  '(': '-LRB-',
  ')': '-RRB-',
  '[': '-LSB-',
  ']': '-RSB-',
  '{': '-LCB-',
  '}': '-RCB-',
}


def _unchanged(token: str) -> str:
  return token


def _without_soft_hyphens(token: str) -> str:
  return token.replace('\xad', '') or '-'


def _with_hard_spaces(token: str) -> str:
  return token.replace(' ', '\xa0')


def _ampersand(token: str) -> str:
  return re.sub('(?i)&amp;', '&', token)


def _quotes(token: str) -> str:
  return re.sub("&apos;|'", "'", token).translate(_QUOTES)


def _double_quote(token: str) -> str:
  """Names a double quote; '&QUOT;' stays, which the original does not know."""
  return "''" if token in ('"', '&quot;') else token


def _brackets(token: str) -> str:
  """Names round brackets; a space stays inside the token as a hard one."""
  return token.translate(_BRACKETS)


def _hyphens(token: str) -> str:
  return '--' if len(token) in (3, 4) else token


def _constant(text: str) -> Callable[[str], str]:
  return lambda token: text


# The order decides between matches of one length.
_RULES: tuple[tuple[str, Callable[[str], str]], ...] = (
  (r'([cC]\+\+)', _unchanged),
  (r'([cCfF]\#)', _unchanged),
  (r'((?i:can))(?i:not)', _unchanged),
  (r"('(?i:t))(?i:was)", _unchanged),
  (r"('(?i:t))(?i:is)", _unchanged),
  (r'((?i:gon|wan))(?i:na)', _unchanged),
  (r'((?i:got))(?i:ta)', _unchanged),
  (r'((?i:lem|gim))(?i:me)', _unchanged),
  (f'({_TAG})', _with_hard_spaces),
  (
    '((?i:&(?:MD|mdash|ndash);)|[\x96\x97\u2013\u2014\u2015])',
    _constant('--'),
  ),
  ('((?i:&amp;))', _ampersand),
  ('((?i:&(?:HT|TL|UR|LR|QC|QL|QR|odq|cdq);)|&#[0-9]+;)', _unchanged),
  (f'({_WORD}){_SUFFIX}', _without_soft_hyphens),
  (f'([A-Za-z\xad]*[A-MO-Za-mo-z]\xad*){_NOT}', _without_soft_hyphens),
  (f'({_WORD})', _without_soft_hyphens),
  (f'({_APOSTROPHE}(?i:n){_APOSTROPHE}?)', _unchanged),
  (f'([lLdDjJ]{_APOSTROPHE})', _unchanged),
  (f'((?i:dunkin|somethin|ol){_APOSTROPHE})', _unchanged),
  (f'({_APOSTROPHE}(?i:em|till?|cause|[2-9]0s))', _unchanged),
  (f'([A-HJ-XZn]{_ANY_APOSTROPHE}{_LETTER}{{2,}})', _unchanged),
  (
    f'({_LETTER}+[aeiouyAEIOUY]{_ANY_APOSTROPHE}[aeiouA-Z]{_LETTER}*)',
    _unchanged,
  ),
  (
    "((?i:cont'd\\.?|'twas|nor'easter|c'mon|e'er|s'mores|ev'ry|li'l|nat'l))",
    _unchanged,
  ),
  (f'((?i:o){_ANY_APOSTROPHE}(?i:o))', _unchanged),
  (f'([yY]{_APOSTROPHE}){_LETTER}', _unchanged),
  (
    '((?i:https?)://[^ \\t\\n\\f\\r"<>|(){}]+[^ \\t\\n\\f\\r"<>|.!?(){},-])',
    _unchanged,
  ),
  (f'({_WEB_SITE})', _unchanged),
  (f'({_WEB_SITE}{_PATH})', _unchanged),
  (f'({_BARE_SITE})', _unchanged),
  (f'({_BARE_SITE}{_PATH})', _unchanged),
  (f'({_MAIL})', _unchanged),
  (f'(@[a-zA-Z_][a-zA-Z_0-9]*|\\#{_WORD_LETTER}+)', _unchanged),
  (f'({_SUFFIX})[^A-Za-z]', _quotes),
  (f'({_NOT})[^A-Za-z]', _quotes),
  (f'({_DIGIT}{{1,2}}[-/]{_DIGIT}{{1,2}}[-/]{_DIGIT}{{2,4}})', _unchanged),
  (f'({_NUMBER})', _without_soft_hyphens),
  (
    '([\u207a\u207b\u208a\u208b]?'
    '(?:[\u2070\xb9\xb2\xb3\u2074-\u2079]+|[\u2080-\u2089]+))',
    _unchanged,
  ),
  (
    f'((?:{_DIGIT}{{1,4}}[- \xa0])?{_DIGIT}{{1,4}}(?:\\\\?/|\u2044)'
    f'{_DIGIT}{{1,4}})',
    _with_hard_spaces,
  ),
  ('([\xbc\xbd\xbe\u2153-\u215e])', lambda token: token.translate(_FRACTIONS)),
  (
    '(-(?i:RRB|LRB|RCB|LCB|RSB|LSB)-|(?i:C\\.D\\.s)|(?i:pro-|anti-)|'
    '(?i:S(?:&amp;|&)(?:P-500|Ls))|'
    f'(?i:cap){_APOSTROPHE}(?i:n)|(?i:c){_APOSTROPHE}(?i:est))',
    _ampersand,
  ),
  (f'({_SLASHED}(?:\\\\?/{_SLASHED}){{1,2}})', _unchanged),
  ('([A-Z]*\\$|\\#)', _unchanged),
  (
    '([\xa2-\xa5\x80\u20a0\u20ac\u060b\u0e3f\u20a4\uffe0\uffe1\uffe5\uffe6])',
    lambda token: token.translate(_CURRENCY),
  ),
  (
    f'([A-Za-z])\\.{_SPACE_OR_LINE}+(?:{_SENTENCE_STARTS}|{_TAG})'
    f'{_SPACE_OR_LINE}',
    _unchanged,
  ),
  (f'({_BEFORE_NUMBERS}){_SPACE_OR_LINE}?{_DIGIT}', _unchanged),
  (f'({_ABBREVIATION})[\\s\\S]{{2}}', _unchanged),
  (f'({_TITLE})', _unchanged),
  (f'({_INITIALS}){_SPACE_OR_LINE}', _unchanged),
  (f'({_APOSTROPHE}[0-9][0-9]){_SPACE_OR_LINE}', _unchanged),
  (f'({_FILE})(?:{_SPACE_OR_LINE}|[.?!,])', _unchanged),
  (f'({_WORD}\\.){_CLAUSE_MARK}', _without_soft_hyphens),
  (f'({_PHONE})', _brackets),
  (f'({_DOTTED_PHONE})', _brackets),
  ('("|(?i:&quot;))[A-Za-z0-9$]', _double_quote),
  ('("|(?i:&quot;))', _double_quote),
  ('(\x7f)', _constant('')),
  ('(<|(?i:&lt;))', _constant('<')),
  ('(>|(?i:&gt;))', _constant('>')),
  (
    "([<>]?[:;=][-o*']?[()DPdpO\\\\{@|\\[\\]])[^A-Za-z0-9]",
    _brackets,
  ),
  (
    "([\\^x=~<>]\\.\\[\\^(?i:x)=~<>\\]|[-\\^x=~<>']_[-\\^x=~<>']|"
    "\\([-\\^x=~<>'][_.]?[-\\^x=~<>']\\)|\\([\\^x=~<>']-[\\^x=~<>'`]\\))",
    _brackets,
  ),
  ('([\\[\\](){}])', _ALL_BRACKETS.__getitem__),
  ('(-+)', _hyphens),
  (
    '(\\.{3,5}|(?:\\.[ \xa0]){2,4}\\.|[\x85\u2026])',
    _constant('...'),
  ),
  ('(@+|\\#+|_+)', _unchanged),
  ('(\\*+|(?:\\\\\\*){1,3})', _unchanged),
  (f'({_CLAUSE_MARK})', _unchanged),
  ('([?!]+)', _unchanged),
  (
    '([.\xa1\xbf\u037e\u0589\u061f\u06d4\u0700-\u0702\u07fa\u3002=/])',
    _unchanged,
  ),
  (f'({_COMPOUND}\\.){_CLAUSE_MARK}', _without_soft_hyphens),
  (f'({_COMPOUND})', _without_soft_hyphens),
  (f'({_HYPHENATED}\\.){_CLAUSE_MARK}', _unchanged),
  (f'({_HYPHENATED})', _unchanged),
  (f'({_COMPANY}\\.){_CLAUSE_MARK}', _ampersand),
  (f'({_COMPANY})', _ampersand),
  ("(')[A-Za-z][^ \\t\\n\\r\xa0]", _constant('`')),
  (f'({_SUFFIX}|{_NOT})', _quotes),
  (f"(''|{_APOSTROPHE})", _quotes),
  (
    '([`\u2018\u2019\u201a-\u201f\x91-\x94\u2039\u203a\xab\xbb]{1,2})',
    _quotes,
  ),
  ('(<<|>>)', _unchanged),
  (f'([{ptb_characters.SYMBOLS}])', _unchanged),
  (
    f'({_SPACE}+|{_SPACE_OR_LINE}|[\\0\u200b\u200e\u200f\ufeff])',
    _constant(''),
  ),
  ('((?i:&nbsp;))', _constant('')),
  # A character that the tokenizer does not know is left out.
  ('([\\s\\S])', _constant('')),
)
_COMPILED = tuple(
  (re.compile(pattern, re.ASCII).match, change) for pattern, change in _RULES
)
_SHORTENED = re.compile(f'{_ABBREVIATION}|{_TITLE}', re.ASCII)
# No rule takes more than such a word, the contracted ones apart.
_PLAIN_WORD = re.compile('([A-Za-z]+)(?=,? )').match
_CONTRACTED = frozenset(['cannot', 'gonna', 'gotta', 'wanna', 'gimme', 'lemme'])
# Where a Greek word ends, after Java: beyond digits and one hyphen or dot.
_INNER_SIGMA = re.compile(
  '\u03a3(?=(?:[0-9]*|[-_.\u2010\u2011\u058a])[^\\W\\d_])'
)
_FINAL_SIGMA = re.compile('(?<=[^\\W\\d_])\u03a3')


def is_contracted(word: str) -> bool:
  """Whether the tokenizer splits a word of small letters in two: 'can not'."""
  return word in _CONTRACTED


def keeps_full_stop(word: str) -> bool:
  """Whether a full stop behind this word is a part of it, as of 'Mt.'."""
  return _SHORTENED.fullmatch(word + '.') is not None


def lower(text: str) -> str:
  """Writes tokens in small letters as Java does, sigmas among them."""
  text = _INNER_SIGMA.sub('\u03c3', text)
  return _FINAL_SIGMA.sub('\u03c2', text).lower()


def split(line: str) -> list[str]:
  """Splits a line into tokens, punctuation among them, in their own case.

  Args:
    line: Any text. Its line breaks separate tokens like spaces.

  Returns:
    The tokens in order. A token may hold a no-break space, where the tokenizer
    joins words ('5 7/8').
  """
  # The original reads UTF-16, in which an emoji is two characters.
  if max(line, default='') > '\uffff':
    units = line.encode('utf-16-le', 'surrogatepass')
    halves = ''.join(
      chr(units[i] | units[i + 1] << 8) for i in range(0, len(units), 2)
    )
    return [
      token.encode('utf-16-le', 'surrogatepass').decode('utf-16-le', 'replace')
      for token in _scan(halves)
    ]
  return _scan(line)


def _scan(line: str) -> list[str]:
  """Applies the rules from the left to the right."""
  # They look ahead: at the end of a line there is another one.
  text = line + '\nx'
  tokens = []
  start = 0
  while start < len(line):
    if text[start] == ' ':
      start += 1
      continue
    plain = _PLAIN_WORD(text, start)
    if plain and plain[1].lower() not in _CONTRACTED:
      token, start = plain[1], plain.end()
    else:
      token, start = _next_token(text, start)
    if token:
      tokens.append(token)
  return tokens


def _next_token(text: str, start: int) -> tuple[str, int]:
  """The token of the longest match, and the place behind it."""
  matches = (
    (match, change)
    for expression, change in _COMPILED
    if (match := expression(text, start))
  )
  # `max` takes the first of equal ones. The last rule takes any character.
  longest, change = max(matches, key=lambda pair: pair[0].end())
  return change(longest[1]), longest.end(1)
