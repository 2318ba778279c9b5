// Which instruction set the products of quantized_product.h use: the best that the compiler may use. PRODUCT_SET_8 is
// the one for weights of eight bits, PRODUCT_SET_NARROW for weights whose columns do not fill the first one's panels.

#pragma once

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512VNNI__)
#include "product_vnni.h"
#define PRODUCT_SET        ::product::vnni_512
#define PRODUCT_SET_8      ::product::vnni_512
#define PRODUCT_SET_NARROW ::product::vnni_256
#elif defined(__AVXVNNI__)
#include "product_vnni.h"
#define PRODUCT_SET   ::product::vnni_256
#define PRODUCT_SET_8 ::product::vnni_256
#else
#include "product_avx2.h"
#define PRODUCT_SET   ::product::avx2
#define PRODUCT_SET_8 ::product::avx2_wide
#endif
#elif defined(__ARM_FEATURE_MATMUL_INT8)
#include "product_i8mm.h"
#define PRODUCT_SET   ::product::i8mm
#define PRODUCT_SET_8 ::product::i8mm
#elif defined(__ARM_FEATURE_DOTPROD)
#include "product_dotprod.h"
#define PRODUCT_SET   ::product::dotprod
#define PRODUCT_SET_8 ::product::dotprod
#endif
